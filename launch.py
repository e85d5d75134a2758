"""The one entry: `python launch.py --config=configs/toys.py [--workdir=DIR] [--mode=train]`.

Exit codes: 0 done; 2 a mistake to mend, which one sentence names; 1 the run could not go on; 134
another host was lost; 143 stopped by a signal with its state saved.
"""

import os
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from emkd_jax.errors import PreemptedError, RunError, UserError
from emkd_jax.xla_flags import set_xla_flags

MODES = (
    'train',
    'evaluate',
    'recommend',
    'export',
    'import',
    'prepare',
    'benchmark',
    'study',
    'report',
    'distill',
    'plan',
)

_WANTED = {  # what Python says of a wrong value, and what was wanted
    ': invalid literal for int()': 'a whole number',
    ': could not convert string to float': 'a number',
    ": ('Non-boolean argument": 'True or False',
}

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    'config', None, 'Configuration: configs/<set>.py[:variant].', lock_config=True
)
flags.DEFINE_string('workdir', '', 'Folder of the run; default: runs/<config.name>.')
flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
flags.DEFINE_string('coordinator', None, 'Many hosts, if nothing tells: HOST:PORT of process 0.')
flags.DEFINE_integer('num_processes', None, 'Many hosts, if nothing tells: how many processes.')
flags.DEFINE_integer('process_id', None, 'Many hosts, if nothing tells: which this is, from 0.')
flags.DEFINE_string(
    'requests', '', "recommend: file of users or histories, '-' for standard input; '': all users."
)
flags.DEFINE_string('output', '', 'recommend: file of the answers; export: folder.')
flags.DEFINE_boolean('strict', False, 'recommend: unknown users and items are an error.')
flags.DEFINE_string('weights', '', 'import: file of weights, .pth, .safetensors or .npz.')
flags.DEFINE_string('study', '', 'study: ablation, generality or ensemble_size.')
flags.DEFINE_string('pytorch_repo', '', 'benchmark: a clone of hw-du/EMKD to measure beside us.')
flags.DEFINE_string('topology', '', 'plan: a TPU slice, as v5e:2x4; default: devices at hand.')
flags.DEFINE_boolean('torch_tuned', False, 'benchmark: let the clone use TF32.')


def main(argv: list[str]) -> None:
    """Calls the mode. Imports come late: a mistake in the flags is told at once."""
    if argv[1:]:
        raise UserError(f"'{argv[1]}' is not an option; options are written --name=value.")
    if FLAGS.config is None:
        raise UserError('--config is missing; try --config=configs/quickstart.py.')
    logging.set_verbosity(logging.FATAL)  # what concerns the user is printed, in a sentence
    config, workdir = FLAGS.config, FLAGS.workdir
    match FLAGS.mode:
        case 'train':
            from emkd_jax.runs.loop import train

            _join()
            train(config, workdir)
        case 'evaluate':
            from emkd_jax.runs.evaluate import evaluate

            _join()
            evaluate(config, workdir)
        case 'recommend':
            from emkd_jax.serving.recommend import recommend

            recommend(config, workdir, FLAGS.requests, FLAGS.output, FLAGS.strict)
        case 'export':
            from emkd_jax.serving.export import export

            export(config, workdir, FLAGS.output)
        case 'import':
            from emkd_jax.serving.import_weights import import_weights

            import_weights(config, workdir, FLAGS.weights)
        case 'prepare':
            from emkd_jax.data import prepare

            print(f'Prepared in {prepare(config.data)}')
        case 'benchmark':
            from benchmarks.original.compare import benchmark

            benchmark(config, workdir, FLAGS.pytorch_repo, FLAGS.torch_tuned)
        case 'study':
            from emkd_jax.analysis.study import study

            _join()
            study(config, workdir, FLAGS.study)
        case 'report':
            from emkd_jax.analysis.report import report

            report(config, workdir)
        case 'distill':
            from emkd_jax.runs.distill import distill

            _join()
            distill(config, workdir)
        case 'plan':
            from emkd_jax.planning.plan import plan

            plan(config, workdir, FLAGS.topology)


def _parse(argv: list[str]) -> list[str]:
    path = next((arg[9:] for arg in argv if arg.startswith('--config=')), '').split(':')[0]
    if path and not os.path.isfile(path):
        raise UserError(f'--config={path}: there is no such file; look into configs/.')
    for arg in argv:
        if arg.startswith('--config.') and not re.match(r'--config(\.[A-Za-z]\w*)+(=|$)', arg):
            raise _no_such_option(arg)
    try:
        rest = FLAGS(argv)
        _ = FLAGS.config and FLAGS.config.name  # a file that failed to load speaks up when used
        if path and FLAGS.config is None:
            raise UserError(f'{path} cannot be used: its get_config returns nothing.')
        return rest
    except UserError:
        raise
    except (AttributeError, KeyError) as error:
        name = (re.search(r'\w+', str(error)) or ['?'])[0]  # a suggestion may follow it
        given = next((arg for arg in argv if name in arg.split('=')[0].split('.')), name)
        raise _no_such_option(given) from error
    except flags.Error as error:
        said = str(error)
        for fault, wanted in _WANTED.items():
            if fault in said:
                said = f'{said.removeprefix("flag ").partition(fault)[0]} must be {wanted}'
        if 'Traceback' in said:
            said = f'{path} cannot be used: {said.strip().splitlines()[-1]}'
    except Exception as error:  # what a file does that is not right
        said = f'{path} cannot be used: {error}'
    raise UserError(' '.join(said.split())[:300].rstrip('.') + '.')


def _no_such_option(given):
    return UserError(
        f'{given[:300]}: there is no such option; configs/base.py lists all, and '
        'configs/custom.py those of event logs.'
    )


def _join():
    from emkd_jax.runs.cluster import join

    join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)


def _run() -> int | None:
    set_xla_flags()
    # ml_collections wants the file before its options, and looks here.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda arg: not arg.startswith('--config='))
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        print('Stopped; there was nothing to save.', file=sys.stderr)
        return PreemptedError.exit_code
    except (UserError, RunError, PreemptedError) as error:
        said = error
    except Exception as error:
        from emkd_jax.runs.cluster import explain, leave

        said = explain(error)
        if said is None:  # a fault of ours, which no other process shall wait for
            traceback.print_exc()
            leave(error)
            return RunError.exit_code
    # What a file holds may be quoted there.
    print(''.join(c if c.isprintable() else '?' for c in str(said)), file=sys.stderr)
    if 'jax' in sys.modules:
        from emkd_jax.runs.cluster import leave

        leave(said)
    return said.exit_code


if __name__ == '__main__':
    sys.exit(_run())
