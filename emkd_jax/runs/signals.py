"""SIGTERM and Ctrl-C: a polite request to save and leave, and an order the second time."""

import math
import os
import signal
import sys
import threading
import time

from emkd_jax.errors import PreemptedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TWICE = 0.5  # seconds in which the same order may come twice: to a process and to its group


class StopSignals:
    """Within this context the first signal sets `requested`, and a second one ends the process.

    While there is nothing to save (`at_once`, and so it begins) the first one ends it too: nothing
    is lost, and neither a download nor a compilation would hear a request.

    Python's own handlers wait until the interpreter is back from a compilation or a device, so the
    signals are read from a pipe, by a thread.
    """

    def __init__(self):
        self.requested = False
        self.at_once = True

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is not threading.main_thread():
            self._old = None  # an embedding program handles its signals itself
            return self
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._old_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._old is None:
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_pipe)
        os.close(self._pipe)

    def _watch(self, read):
        heard = -math.inf
        while received := os.read(read, 1):
            if received[0] not in _SIGNALS:
                continue
            if self.at_once:
                _end('Stopped; there was nothing to save.')
            if time.monotonic() - heard < _TWICE:
                continue
            heard = time.monotonic()
            if self.requested:
                _end('Stopped at once; what came after the last checkpoint will be done again.')
            self.requested = True
        os.close(read)


def _end(message):
    print(f'\n{message}', file=sys.stderr, flush=True)
    os._exit(PreemptedError.exit_code)
