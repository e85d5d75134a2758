"""Two sides, each measured in a child process of its own: requests and replies as JSON lines."""

import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from emkd_jax.errors import UserError

_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'RESOURCE_EXHAUSTED')


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """The child's part: answers requests from standard input until it closes.

    A request is `{"command": name, ...arguments}`. The reply is `{"value": ...}`, or
    `{"mistake": sentence}` where the handler raised UserError, or `{"failure": what}` with the
    traceback on standard error; with it comes the CPU time that was used since the last reply.
    """
    replies = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print must not come between the replies
    idle_since = time.process_time()
    for line in sys.stdin:
        reply = {'idle_cpu_seconds': time.process_time() - idle_since}
        request = json.loads(line)
        try:
            reply['value'] = handlers[request.pop('command')](**request)
        except UserError as error:
            reply['mistake'] = str(error)
        except Exception as error:
            traceback.print_exc()
            reply['failure'] = f'{type(error).__name__}: {error}'
        print(json.dumps(reply), file=replies, flush=True)
        idle_since = time.process_time()


class Child:
    """The parent's part: one side's process. Use as a context manager; leaving it ends the process.

    Args:
      name: of the side, for messages.
      module: run as `python -m module`; calls `serve`.
      log: file that gets what the process prints.
      cwd: its working directory.
      env: set on top of this process's environment.
      if_killed: what a user should do when the system kills it, a clause of a sentence.
    """

    def __init__(
        self,
        name: str,
        module: str,
        log: pathlib.Path,
        cwd: pathlib.Path | None = None,
        env: Mapping[str, str] | None = None,
        if_killed: str = 'free some memory',
    ):
        self.name = name
        self.idle_cpu_seconds = 0.0  # used between requests, while it was the other side's turn
        self._log, self._if_killed = log, if_killed
        root = str(pathlib.Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
        with open(log, 'w') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=cwd,
                env=os.environ | {'PYTHONPATH': path} | (env or {}),
            )

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str, **arguments: Any) -> Any:
        """The handler's value.

        Raises:
          UserError: the handler refused or failed, or the process is gone.
        """
        try:
            print(
                json.dumps({'command': command, **arguments}), file=self._process.stdin, flush=True
            )
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            raise UserError(self._ending())
        reply = json.loads(line)
        self.idle_cpu_seconds += reply['idle_cpu_seconds']
        if 'mistake' in reply:
            raise UserError(reply['mistake'])
        if 'failure' in reply:
            raise UserError(self._failure(reply['failure']))
        return reply['value']

    def _failure(self, what: str) -> str:
        if any(words in what for words in _OUT_OF_MEMORY):
            return f'{self.name} ran out of memory; {self._if_killed}.'
        return f'{self.name} failed ({what}); see {self._log}.'

    def _ending(self) -> str:
        code = self._process.wait()
        if code == -9:
            return (
                f'{self.name} was killed, most likely because the memory is full; '
                f'{self._if_killed}.'
            )
        return f'{self.name} ended with code {code}; see {self._log}.'
