"""SIGTERM and Ctrl-C: the first asks a run to save and stop, a second one ends the process."""

import math
import os
import signal
import sys
import threading
import time

from emkd_jax.errors import PreemptedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TWICE = 0.5  # seconds in which one request may arrive twice: at a process and at its group


class StopSignals:
    """Inside `with StopSignals()`, the first signal sets `requested` and a second ends the process.

    While there is nothing to save (`at_once`, which is so at the start), the first signal ends the
    process too: nothing is lost, and a download or a compilation would not notice a request.
    Without `with`, no signal is handled and `requested` stays False: that is how a notebook trains.

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
        self._old = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
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
            if received[0] not in _SIGNALS:
                continue
            if self.at_once:
                _end('Stopped; there was nothing to save.')
            if time.monotonic() - last < _TWICE:
                continue
            last = time.monotonic()
            if self.requested:
                _end('Stopped at once; what came after the last checkpoint will be done again.')
            self.requested = True
        os.close(read)


def _end(message: str) -> None:
    print(f'\n{message}', file=sys.stderr, flush=True)
    os._exit(PreemptedError.exit_code)
