"""The command line: `emkd-jax` where the package is installed, `python launch.py` in a checkout.

Exit codes: 0 done; 1 the run could not go on; 2 a mistake of the user, named in one sentence; 134
another host was lost; 143 stopped by a signal with its state saved.
"""

import contextlib
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import logging

from emkd_jax import __version__
from emkd_jax.cli.arguments import parse, split
from emkd_jax.cli.compiler import set_compilation_cache, set_xla_flags
from emkd_jax.cli.lost_output import may_be_lost
from emkd_jax.cli.modes import MODES, Mode, help_text
from emkd_jax.config import get_config
from emkd_jax.config.checks import check_config
from emkd_jax.errors import PreemptedError, RunError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_xla_flags()
    try:
        if {'--help', '-h', '-help', '--helpfull', 'help'} & set(arguments):
            with may_be_lost(sys.stdout):
                print(help_text())
        elif '--version' in arguments:
            print(f'emkd-jax {__version__}')
        else:
            _run(arguments)
    except KeyboardInterrupt:
        print('Stopped; there was nothing to save.', file=sys.stderr)
        return PreemptedError.exit_code
    except (UserError, RunError, PreemptedError) as error:
        return _fail(error)
    except Exception as error:
        from emkd_jax.runs.cluster import explain, leave

        known = explain(error)
        if known is None:  # our own mistake; no other process shall wait for this one
            traceback.print_exc()
            leave(error)
            return RunError.exit_code
        return _fail(known)
    return 0


def _run(arguments: list[str]) -> None:
    name, config_name, rest = split(arguments)
    mode = MODES[name]
    workdir, source = (
        next((a.partition('=')[2] for a in rest if a.startswith(f'--{flag}=')), '')
        for flag in ('workdir', 'from')
    )
    trained = {'run': workdir, 'config': (source or workdir) if name == 'train' else ''}
    if config_name:
        config = get_config(config_name)
    elif stored := trained.get(mode.starts_from):
        from emkd_jax.runs.trained import stored_config

        config = stored_config(stored)
    else:
        need = ' or --workdir' if mode.starts_from == 'run' or name == 'train' else ''
        raise UserError(f'--config{need} is missing; try --config=movielens, or --help.')
    given = parse(rest, config, mode)
    check_config(given.config)
    set_compilation_cache(given.compilation_cache)
    if not given.verbose:
        logging.set_verbosity(logging.FATAL)  # what concerns the user is printed as a sentence
    with contextlib.ExitStack() as stack:
        more = [given[flag].value for flag in mode.flags]
        if mode.many_hosts:
            from emkd_jax.runs.cluster import join
            from emkd_jax.runs.signals import StopSignals

            join(given.coordinator, given.num_processes, given.process_id)
            signals = stack.enter_context(StopSignals())
        function = _load(mode)
        if mode.starts_from == 'data':
            function(given.config.data, *more)
        elif mode.starts_from == 'run':
            from emkd_jax.runs.trained import default_workdir, load_run

            folder, config = workdir or default_workdir(given.config), given.config
            if name == 'distill':  # the options are those of the student, which is another run
                run, more = load_run(folder), [config, *more, signals]
            else:
                run = load_run(folder, config)
            function(run, *more)
        elif name == 'train':
            from emkd_jax.serving import after_training

            if source:
                from emkd_jax.runs.continuation import continue_training

                run = continue_training(source, given.config, None, workdir, signals)
            elif config_name or any(a.startswith('--config.data.') for a in rest):
                run = function(given.config, None, workdir, signals)
            else:
                from emkd_jax.runs.trained import stored_data

                run = function(given.config, stored_data(workdir), workdir, signals)
            after_training.show(run)
        elif name == 'study':
            function(given.config, workdir, *more, signals)
        else:
            function(given.config, workdir, *more)


def _load(mode: Mode) -> Any:
    module, _, name = mode.function.partition(':')
    return getattr(importlib.import_module(f'emkd_jax.{module}'), name)


def _fail(error: UserError | RunError | PreemptedError) -> int:
    # The message may quote what a file holds.
    with may_be_lost(sys.stderr):
        print(''.join(c if c.isprintable() else '?' for c in str(error)), file=sys.stderr)
    if 'jax' in sys.modules:
        from emkd_jax.runs.cluster import leave

        leave(error)
    return error.exit_code


if __name__ == '__main__':
    sys.exit(main())
