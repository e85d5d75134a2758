"""The command line: `emkd-jax` where the package is installed, `python launch.py` in a checkout.

Exit codes: 0 done; 1 the run could not go on; 2 a mistake of the user, named in one sentence; 134
another host was lost; 143 stopped by a signal with its state saved.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from emkd_jax import __version__
from emkd_jax.config import (
    check_config,
    check_effects,
    check_names,
    check_networks,
    config_names,
    flatten,
    get_config,
    unread_options,
)
from emkd_jax.errors import PreemptedError, RunError, UserError
from emkd_jax.lost_output import may_be_lost


class Mode(NamedTuple):
    """A mode of the command line.

    Attributes:
      function: 'module:name' of what it calls.
      starts_from: 'config' (a configuration), 'run' (a trained run) or 'data' (`config.data`).
      help: what it does.
      flags: its own flags, in the order of the function's further arguments.
      many_hosts: whether several processes may run it together.
    """

    function: str
    starts_from: str
    help: str
    flags: tuple[str, ...] = ()
    many_hosts: bool = False


MODES = {
    'train': Mode(
        'runs.loop:train', 'config', 'train, resume and test (the default)', ('from',), True
    ),
    'evaluate': Mode('runs.trained:evaluate', 'run', 'test the best checkpoint again', (), True),
    'recommend': Mode(
        'serving.recommend:recommend',
        'run',
        'items for users or histories',
        ('requests', 'output', 'strict', 'events'),
    ),
    'export': Mode(
        'serving.export:export', 'run', 'files that need none of this code', ('output',)
    ),
    'serve': Mode(
        'serving.http.serve:serve', 'run', 'answers over HTTP, and a page', ('host', 'port')
    ),
    'report': Mode('analysis.report:report', 'run', 'how a run went, with plots'),
    'distill': Mode(
        'runs.distill:distill', 'run', 'one network that learns from the ensemble', (), True
    ),
    'study': Mode('analysis.study:study', 'config', 'several systems compared', ('study',), True),
    'plan': Mode('planning.plan:plan', 'config', 'memory and work on given devices', ('topology',)),
    'prepare': Mode('data.histories:prepare', 'data', 'prepare the data only', ('output',)),
    'import': Mode(
        'serving.import_weights:import_weights', 'config', 'start from weights', ('weights',)
    ),
    'benchmark': Mode(
        'benchmark.compare:benchmark',
        'config',
        'measure beside the PyTorch original',
        ('pytorch_repo', 'torch_tuned'),
    ),
}

_FLAGS: dict[str, tuple[Any, str]] = {
    'from': ('', 'train: workdir of a trained run with whose parameters to begin'),
    'requests': ('', "recommend: file of users or histories, '-' for standard input; '' all users"),
    'events': ('', 'recommend: a log that has grown since the training, for all its users'),
    'output': ('', 'recommend: file of answers; export: folder; prepare: file of histories'),
    'host': ('127.0.0.1', 'serve: address to listen on; 0.0.0.0 for all of this machine'),
    'port': (8000, 'serve: port to listen on; 0 for one that is free'),
    'strict': (False, 'recommend: unknown users and items are an error'),
    'study': ('', 'study: ablation, parts, generality or ensemble_size'),
    'topology': ('', 'plan: a TPU slice such as v5e:2x4, or v5e for the smallest that fits'),
    'weights': ('', 'import: file of weights, .pth, .safetensors or .npz'),
    'pytorch_repo': ('', 'benchmark: a clone of hw-du/EMKD'),
    'torch_tuned': (False, 'benchmark: let the clone use TF32'),
}

_DEFINE = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, str: flags.DEFINE_string}

_HELP = """\
{program} [MODE] --config=NAME[:VARIANT] [--workdir=FOLDER] [--config.OPTION=VALUE ...]
{program} MODE --workdir=FOLDER [...]        on a trained run

Modes:
{modes}

Configurations: {configs},
  or the path of a file. Those of the published data sets are EMKD as published, and have the
  variants :best (the best accuracy), :quick (a small model) and :released (as the authors' code).
  Their options are listed in docs/configuration.md and changed on the command line.

Flags:
{flags}
  --coordinator, --num_processes, --process_id: several hosts, where nothing else tells them.
  --compilation_cache: folder of compiled programs, 'none' for no cache; default: in ~/.cache.
  --verbose: show the messages of the libraries.  --version, --help.

Examples:
  {program} --config=movielens
  {program} --config=custom:quick --config.data.source=events.csv --workdir=runs/shop
  {program} recommend --workdir=runs/shop --output=answers.csv
  {program} serve --workdir=runs/shop"""


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


def help_text() -> str:
    """One screen for a newcomer."""
    modes = '\n'.join(f'  {name:10} {mode.help}' for name, mode in MODES.items())
    lines = '\n'.join(f'  --{name:13} {meaning}' for name, (_, meaning) in _FLAGS.items())
    program = 'python launch.py' if sys.argv[0].endswith('launch.py') else 'emkd-jax'
    return _HELP.format(
        program=program, modes=modes, flags=lines, configs=', '.join(config_names())
    )


def set_xla_flags() -> None:
    """Leaves element-wise work and reductions on CPUs to XLA's own code. Before jax is imported.

    From jaxlib 0.10 on, XLA hands them to a library that takes four times as long over the blocks
    of the catalogue loss. XLA aborts on flags it does not know, so other versions get none.
    """
    name = '--xla_cpu_experimental_ynn_fusion_type'
    given = os.environ.get('XLA_FLAGS', '')
    if importlib.metadata.version('jaxlib').startswith('0.10.') and name not in given:
        kinds = '-LIBRARY_FUSION_TYPE_ELTWISE,-LIBRARY_FUSION_TYPE_REDUCE'
        os.environ['XLA_FLAGS'] = f'{given} {name}={kinds}'.strip()


def set_compilation_cache(folder: str) -> None:
    """Keeps compiled programs, so that a second start is faster.

    JAX's own variables (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) come first. By
    default, the folder is one of the user and of this kind of CPU, for which XLA compiles. A user
    without a home, as in many containers, has none.

    Args:
      folder: a folder; 'none' for no cache; '' for the default.

    Raises:
      UserError: the folder cannot be used.
    """
    if folder == 'none':
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
        return
    if not folder and 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    place = folder or os.path.join(base, 'emkd_jax', 'compiled', _cpu_name())
    try:
        if '://' not in place:
            os.makedirs(place, exist_ok=True)
    except OSError as error:
        if folder:
            raise UserError(
                f'--compilation_cache={folder} cannot be used ({error.strerror}); name another '
                'folder, or none.'
            ) from error
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
        return
    os.environ['JAX_COMPILATION_CACHE_DIR'] = place
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')


def _cpu_name() -> str:
    """Hex digits that differ between CPUs with other instructions."""
    features = platform.processor() + platform.machine()
    with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
        features += next((line for line in file if line.startswith(('flags', 'Features'))), '')
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def _run(arguments: list[str]) -> None:
    name, config_name, rest = _split(arguments)
    mode = MODES[name]
    workdir, source = (
        next((a.partition('=')[2] for a in rest if a.startswith(f'--{flag}=')), '')
        for flag in ('workdir', 'from')
    )
    trained = {'run': workdir, 'config': source if 'from' in mode.flags else ''}
    if config_name:
        config = get_config(config_name)
    elif stored := trained.get(mode.starts_from):
        from emkd_jax.runs.trained import stored_config

        config = stored_config(stored)
    else:
        need = ' or --workdir' if mode.starts_from == 'run' else ''
        raise UserError(f'--config{need} is missing; try --config=movielens, or --help.')
    given = _parse(rest, config, mode)
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
                run, more = load_run(folder), [config, signals]
            else:
                run = load_run(folder, config)
            function(run, *more)
        elif name == 'train':
            from emkd_jax.serving import after_training

            if source:
                from emkd_jax.runs.continuation import continue_training

                run = continue_training(source, given.config, None, workdir, signals)
            else:
                run = function(given.config, None, workdir, signals)
            after_training.show(run)
        elif name == 'study':
            function(given.config, workdir, *more, signals)
        else:
            function(given.config, workdir, *more)


def _split(arguments: list[str]) -> tuple[str, str, list[str]]:
    """Mode, configuration and the other arguments, each as `--name=value`."""
    mode, config, waiting = '', '', list(reversed(arguments))
    rest: list[str] = []
    while waiting:
        argument = waiting.pop()
        if argument in MODES and not (mode or rest or config):
            mode = argument
            continue
        if not argument.startswith('-') or argument == '-':
            if not (mode or rest or config):
                raise UserError(
                    f"'{argument}' is not a mode; the first word is one of {', '.join(MODES)}, or "
                    'an option such as --config=NAME.'
                )
            raise UserError(f"'{argument}' is not an option; options are written --name=value.")
        key, mark, value = argument.lstrip('-').partition('=')
        if not mark and waiting and not waiting[-1].startswith('--'):
            mark, value = '=', waiting.pop()  # written as `--name value`
        if key == 'mode':
            mode = value
        elif key == 'config':
            config = value
        else:
            rest.append(f'--{key}{mark}{value}')
    if mode and mode not in MODES:
        raise UserError(f'--mode={mode} is not known; use one of {", ".join(MODES)}.')
    return mode or 'train', config, rest


def _parse(arguments: list[str], config: ConfigDict, mode: Mode) -> flags.FlagValues:
    names = [a.removeprefix('--').partition('=')[0] for a in arguments]
    options = [name.removeprefix('config.') for name in names if name.startswith('config.')]
    known = flatten(config.to_dict())
    check_names([o if o in known else o.removeprefix('no') for o in options], config)
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    flags.DEFINE_string('workdir', '', 'Folder of the run.', flag_values=values)
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.', flag_values=values)
    flags.DEFINE_integer('num_processes', None, 'Number of processes.', flag_values=values)
    flags.DEFINE_integer('process_id', None, 'Number of this process.', flag_values=values)
    flags.DEFINE_string('compilation_cache', '', 'Folder, or none.', flag_values=values)
    flags.DEFINE_boolean('verbose', False, 'Show messages of libraries.', flag_values=values)
    for name, (default, meaning) in _FLAGS.items():
        define: Any = _DEFINE[type(default)]
        define(name, default, meaning, flag_values=values)
    argv = ['emkd-jax', *arguments]
    try:
        config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError) as error:
        message = ' '.join(str(error).split()).removeprefix('flag ')
        raise UserError(f'{message[:300].rstrip(".")}.') from error
    if mode is not MODES['distill']:  # a student is one network of model.encoder
        check_networks(options, values.config)
    if mode.starts_from == 'config':
        check_effects(options, values.config)
        if unread := unread_options(options, values.config):
            print(unread, file=sys.stderr)
    for name in _FLAGS:
        if values[name].present and name not in mode.flags:
            takers = ' and '.join(m for m, other in MODES.items() if name in other.flags)
            raise UserError(f'--{name} belongs to --mode={takers}; leave it out.')
    return values


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
