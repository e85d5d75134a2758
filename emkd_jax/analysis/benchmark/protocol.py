"""Each side runs in a child process of its own: requests and replies are lines of JSON."""

import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from emkd_jax.errors import UserError

_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'RESOURCE_EXHAUSTED')


def serve(side: object) -> None:
    """In the child: answers requests from standard input with methods of `side` until it closes.

    A request is `{"command": name of the method, ...arguments}`. The reply holds the `value`; or
    `mistake`, the message of a UserError; or `failure`, another error, whose traceback goes to
    standard error. It also holds the CPU time that was used since the last reply.
    """
    replies = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # output of libraries must not come between the replies
    idle_since = time.process_time()
    for line in sys.stdin:
        reply: dict[str, Any] = {'idle_cpu_seconds': time.process_time() - idle_since}
        request = json.loads(line)
        try:
            reply['value'] = getattr(side, request.pop('command'))(**request)
        except UserError as error:
            reply['mistake'] = str(error)
        except Exception as error:
            traceback.print_exc()
            reply['failure'] = f'{type(error).__name__}: {error}'
        print(json.dumps(reply), file=replies, flush=True)
        idle_since = time.process_time()


class Child:
    """In the parent: the process of one side. It ends with the `with` block.

    Args:
      name: the name of the side in messages.
      module: run as `python -m module`; it calls `serve`.
      log: file for the output of the process.
      cwd: its working directory.
      env: added to the environment of this process.
      advice: what the user should do if the memory is full, as a clause of a sentence.

    Attributes:
      idle_cpu_seconds: CPU time that was used between requests, while the other side was measured.
    """

    def __init__(
        self,
        name: str,
        module: str,
        log: pathlib.Path,
        cwd: pathlib.Path | None = None,
        env: Mapping[str, str] | None = None,
        advice: str = 'free some memory',
    ):
        self.idle_cpu_seconds = 0.0
        self._name, self._log, self._advice = name, log, advice
        root = str(pathlib.Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
        with open(log, 'w') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=cwd,
                env={**os.environ, 'PYTHONPATH': path, **(env or {})},
            )

        assert self._process.stdout is not None  # it is a pipe
        self._replies = self._process.stdout

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Calls a method of the side and returns its value.

        Raises:
          UserError: the method raised an error, or the process has ended.
        """
        request = json.dumps({'command': command, **arguments})
        try:
            print(request, file=self._process.stdin, flush=True)
            line = self._replies.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            raise UserError(self._ending())
        reply = json.loads(line)
        self.idle_cpu_seconds += reply['idle_cpu_seconds']
        if failure := reply.get('failure'):
            if any(words in failure for words in _OUT_OF_MEMORY):
                raise UserError(f'{self._name} ran out of memory; {self._advice}.')
            raise UserError(f'{self._name} failed ({failure}); see {self._log}.')
        if 'mistake' in reply:
            raise UserError(reply['mistake'])
        return reply['value']

    def _ending(self) -> str:
        code = self._process.wait()
        if code == -9:
            reason = 'most likely because the memory is full'
            return f'{self._name} was killed, {reason}; {self._advice}.'
        return f'{self._name} ended with code {code}; see {self._log}.'
