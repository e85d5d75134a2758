"""The modes of the command line, their flags, and what `--help` says of them."""

import sys
from typing import Any, NamedTuple

from emkd_jax.config import config_names


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
        'runs.distill:distill', 'run', 'networks that learn from the ensemble', ('output',), True
    ),
    'study': Mode('analysis.study:study', 'config', 'several systems compared', ('study',), True),
    'plan': Mode('planning.plan:plan', 'config', 'memory and work on given devices', ('topology',)),
    'prepare': Mode('data.histories:prepare', 'data', 'prepare the data only', ('output',)),
    'import': Mode(
        'serving.import_weights:import_weights', 'config', 'start from weights', ('weights',)
    ),
    'benchmark': Mode(
        'analysis.benchmark.compare:benchmark',
        'config',
        'measure beside the PyTorch original',
        ('pytorch_repo', 'torch_tuned'),
    ),
}

FLAGS: dict[str, tuple[Any, str]] = {
    'from': ('', 'train: workdir of a trained run with whose parameters to begin'),
    'requests': ('', "recommend: file of users or histories, '-' for standard input; '' all users"),
    'events': ('', 'recommend: a log that has grown since the training, for all its users'),
    'output': ('', 'recommend, prepare: file; export, distill: folder'),
    'host': ('127.0.0.1', 'serve: address to listen on; 0.0.0.0 for all of this machine'),
    'port': (8000, 'serve: port to listen on; 0 for one that is free'),
    'strict': (False, 'recommend: unknown users and items are an error'),
    'study': ('', 'study: ablation, parts, generality or ensemble_size'),
    'topology': ('', 'plan: a TPU slice such as v5e:2x4, or v5e for the smallest that fits'),
    'weights': ('', 'import: file of weights, .pth, .safetensors or .npz'),
    'pytorch_repo': ('', 'benchmark: a clone of hw-du/EMKD'),
    'torch_tuned': (False, 'benchmark: let the clone use TF32'),
}

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
  {program} --config=custom --config.data.source=events.csv --workdir=runs/shop
  {program} recommend --workdir=runs/shop --output=answers.csv
  {program} serve --workdir=runs/shop"""


def help_text() -> str:
    """One screen for a newcomer."""
    modes = '\n'.join(f'  {name:10} {mode.help}' for name, mode in MODES.items())
    lines = '\n'.join(f'  --{name:13} {meaning}' for name, (_, meaning) in FLAGS.items())
    program = 'python launch.py' if sys.argv[0].endswith('launch.py') else 'emkd-jax'
    return _HELP.format(
        program=program, modes=modes, flags=lines, configs=', '.join(config_names())
    )
