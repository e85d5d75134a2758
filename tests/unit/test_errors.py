"""The commands that messages name work in the environment and the folder of the user."""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys

import pytest

from emkd_jax import errors
from tests.support import ROOT


@pytest.mark.parametrize(
    ('called', 'program'),
    [
        ('launch.py', 'python launch.py'),
        ('../code/launch.py', 'python ../code/launch.py'),
        ('{here}/venv/bin/emkd-jax', 'venv/bin/emkd-jax'),
        ('/usr/bin/notebook', 'emkd-jax'),
    ],
)
def test_the_command_line_is_named_as_it_was_called(monkeypatch, tmp_path, called, program):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [called.format(here=tmp_path)])
    monkeypatch.setattr(sys, 'executable', '/usr/bin/python')
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    assert errors.this_program() == program


@pytest.mark.parametrize(
    ('folder', 'installer', 'command'),
    [
        ('{root}', None, "venv/bin/python -m pip install '.[serve]'"),
        ('{elsewhere}', None, "venv/bin/python -m pip install '{root}[serve]'"),
        ('{elsewhere}', 'pip', "venv/bin/python -m pip install 'emkd-jax[serve]'"),
    ],
)
def test_an_extra_is_installed_where_this_process_looks(
    monkeypatch, tmp_path, folder, installer, command
):
    places = {'root': ROOT, 'elsewhere': tmp_path}
    monkeypatch.chdir(folder.format(**places))
    monkeypatch.setattr(sys, 'executable', str(pathlib.Path.cwd() / 'venv/bin/python'))
    found = [Distribution({}), Distribution({'INSTALLER': installer})]
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda name: found)
    assert errors.install_command('[serve]') == command.format(**places)
    assert errors.install_command('wandb') == 'venv/bin/python -m pip install wandb'


class Distribution:
    """The files of an installed project that are asked for."""

    def __init__(self, texts):
        self.read_text = texts.get


def test_pip_takes_the_command():
    command = errors.install_command('[serve]').replace('install', 'install --dry-run --no-deps')
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'emkd' in done.stdout


def test_what_is_not_installed_is_named_with_the_command():
    with pytest.raises(errors.UserError, match=r'A page needs no_such_module; run: .*pip install'):
        errors.import_extra('no_such_module', 'A page', '[serve]')
