"""SIGTERM, Ctrl-C and a closed terminal: the first signal asks a run to save and stop.

A second one ends the process.
"""

import math
import os
import signal
import sys
import threading
import time
import types

from emkd_jax.cli.lost_output import may_be_lost
from emkd_jax.errors import PreemptedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANGUP = getattr(signal, 'SIGHUP', None)  # of a terminal that is closed; Windows has none
_TWICE = 0.5  # seconds in which one request may arrive twice: at a process and at its group


class StopSignals:
    """Inside `with StopSignals()`, the first signal sets `requested` and a second ends the process.

    While there is nothing to save (`at_once`, which is so at the start), the first signal ends the
    process too: nothing is lost, and a download or a compilation would not notice a request.
    Without `with`, no signal is handled and `requested` stays False.

    Python's own handlers wait until the interpreter is back from a compilation or a device, so a
    thread reads the signals from a pipe.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = True

    def __enter__(self) -> 'StopSignals':
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._old_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        handled = list(_SIGNALS)
        if _HANGUP and signal.getsignal(_HANGUP) == signal.SIG_DFL:  # `nohup` ignores it
            handled.append(_HANGUP)
        self._old = {number: signal.signal(number, lambda *_: None) for number in handled}
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_pipe)
        os.close(self._pipe)

    def _watch(self, read: int) -> None:
        last = -math.inf
        while received := os.read(read, 1):
            if received[0] not in self._old:
                continue
            if self.at_once:
                _end('Stopped; there was nothing to save.')
            if time.monotonic() - last < _TWICE:
                continue
            last = time.monotonic()
            if self.requested and received[0] == _HANGUP:  # no one sends it to say anything more
                continue
            if self.requested:
                _end('Stopped at once; what came after the last checkpoint will be done again.')
            self.requested = True
        os.close(read)


class KeyboardInterrupts(StopSignals):
    """The same for Ctrl-C in a notebook or script: the process goes on after the run.

    While there is nothing to save, and the second time, Python's KeyboardInterrupt is raised. A
    program that handles Ctrl-C itself, and a thread, which Python does not let, keep what they do.
    """

    def __enter__(self) -> 'KeyboardInterrupts':
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._handles = usual and threading.current_thread() is threading.main_thread()
        if self._handles:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        if self.at_once or self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True


def _end(message: str) -> None:
    with may_be_lost(sys.stderr):
        print(f'\n{message}', file=sys.stderr)
    os._exit(PreemptedError.exit_code)
