"""Lines and tables for the user."""

import re
import sys

import jax
import pytest

from emkd_jax.cli.console import amount, markdown_table, print_table, say, warn

COLUMNS, ROWS = ['system', 'HR@10'], [['EMKD', '0.1000'], ['no ensemble', '12,345']]


def test_cells_are_printed_as_they_are_given(capsys):
    print_table('Test', COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        '',
        'Test',
        'system         HR@10',
        '────────────────────',
        'EMKD          0.1000',
        'no ensemble   12,345',
    ]


def test_a_terminal_shows_the_highest_of_each_column_in_bold(capsys, monkeypatch):
    rows = [['one', '0.2', '3', ''], ['two', '0.1', '20', '']]
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    print_table('', ['', 'a', 'b', 'c'], rows, mark_highest=True)
    shown = capsys.readouterr().out
    assert re.findall(r'\x1b\[1m\s*([\d.]+)', shown) == ['0.2', '20']
    monkeypatch.undo()
    print_table('', ['', 'a', 'b', 'c'], rows, mark_highest=True)
    assert '\x1b' not in capsys.readouterr().out


def test_a_line_of_a_file_is_not_cut(capsys):
    print_table('', ['name', 'value'], [['long ' * 30, '1']])
    assert ('long ' * 30).strip() in capsys.readouterr().out


def test_a_table_without_headings_has_no_line(capsys):
    print_table('', ['', ''], [['devices', '4 x cpu'], ['memory', '3 GB']], text_columns=2)
    assert capsys.readouterr().out == 'devices  4 x cpu\nmemory   3 GB\n'


def test_numbers_are_aligned_on_the_right_in_markdown():
    lines = markdown_table(COLUMNS, ROWS).splitlines()
    assert lines[1:3] == ['| :-- | --: |', '| EMKD | 0.1000 |']


def test_only_process_0_prints(capsys, monkeypatch):
    monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    say('a line')
    warn('something')
    print_table('Test', COLUMNS, ROWS)
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(jax, 'process_index', lambda: 0)
    say('a line')
    warn('something')
    assert capsys.readouterr() == ('a line\n', 'Warning: something\n')


def test_lines_break_between_words_in_a_terminal_and_nowhere_else(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    text, command = '  one two three four five six', 'Serve:  emkd-jax --workdir=runs/shop'
    say(text)
    assert capsys.readouterr().out == f'{text}\n'
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    say(f'{text}\n{command}')
    assert capsys.readouterr().out == f'  one two three four\n    five six\n{command}\n'


@pytest.mark.parametrize(
    ('value', 'shown'),
    [(0, '0 B'), (999, '999 B'), (767_140, '767 kB'), (1.019e9, '1.02 GB'), (999.6e9, '1 TB')],
)
def test_amounts_have_three_digits(value, shown):
    assert amount(value, 'B') == shown
