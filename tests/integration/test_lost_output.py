"""What reads the output goes away: nothing is lost, and nobody sees a traceback."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.launches import Launch, run


def test_help_for_a_reader_that_has_enough():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, 'launch.py', '--help'], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.parametrize('streams', ['out', 'out and err'])
def test_a_training_goes_on_when_nobody_reads_its_output(tmp_path, streams):
    reader, writer = os.pipe()
    os.close(reader)
    lost = f'import os; os.dup2({writer}, 1); '
    if streams == 'out and err':
        lost += f'os.dup2({writer}, 2); '
    code, out, err = run(tmp_path / 'run', before=lost, pass_fds=[writer])
    os.close(writer)
    assert (code, out) == (0, '')
    assert 'Traceback' not in err and 'Exception' not in err
    assert json.loads((tmp_path / 'run/results.json').read_text())['steps'] == 36


def test_a_closed_terminal_saves_the_run(tmp_path):
    ours, terminal = pty.openpty()
    lost = f'import fcntl, os, termios; os.setsid(); fcntl.ioctl({terminal}, termios.TIOCSCTTY); '
    lost += f'os.dup2({terminal}, 1); os.dup2({terminal}, 2); os.close({terminal}); '
    # The tests themselves may run under `nohup`.
    lost += 'import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)'
    changes = {  # one validation, which is saved, and then nothing that would save
        'train__num_epochs': 2000,
        'eval__every_epochs': 1999,
        'checkpoint__every_steps': 0,
    }
    launch = Launch(tmp_path / 'run', changes, before=lost, pass_fds=[terminal])
    os.close(terminal)
    launch.wait_for_save()
    os.close(ours)  # the kernel sends SIGHUP, and writing to the terminal fails from now on
    code, _, _ = launch.end()
    assert code == 143
    first, last = sorted(int(step) for step in launch.steps())
    assert (first, last > first) == (9, True)


def test_what_nohup_ignores_stays_ignored(tmp_path):
    launch = Launch(
        tmp_path / 'run', before='import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)'
    )
    launch.wait_for_save()
    launch.kill(signal.SIGHUP)
    code, _, _ = launch.end()
    assert code == 0
