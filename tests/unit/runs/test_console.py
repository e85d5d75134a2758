"""Lines and tables for the user."""

import jax

from emkd_jax.runs.console import markdown_table, print_table, say, warn

COLUMNS, ROWS = ['system', 'HR@10'], [['EMKD', '0.1000'], ['no ensemble', '12,345']]


def test_cells_are_printed_as_they_are_given(capsys):
    print_table('Test', COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        '',
        'Test',
        'system         HR@10',
        '-----------  -------',
        'EMKD          0.1000',
        'no ensemble   12,345',
    ]


def test_a_table_without_headings_has_no_line(capsys):
    print_table('', ['', ''], [['devices', '4 x cpu'], ['memory', '3 GB']], text_columns=2)
    assert capsys.readouterr().out == 'devices  4 x cpu\nmemory   3 GB\n'


def test_numbers_are_aligned_on_the_right_in_markdown():
    lines = markdown_table(COLUMNS, ROWS).splitlines()
    assert lines[1] == '|:------------|--------:|'
    assert lines[2] == '| EMKD        |  0.1000 |'


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
