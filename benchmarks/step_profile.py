"""Where the time of a train step goes on this machine, by part of the step:

    python benchmarks/step_profile.py --config=toys:best [--config.OPTION=VALUE ...]

First the step is timed, and then it is run under JAX's profiler. The operations that XLA ran are
added up by the place in the code that they come from. Operations run beside each other on several
cores, so that the parts may add up to more than the time of the step. The last line of the output
is the record, as JSON.
"""

import argparse
import ast
import collections
import gzip
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from emkd_jax.cli.compiler import set_xla_flags

set_xla_flags()  # before jax is imported, as the command line does

import jax  # noqa: E402

from emkd_jax.analysis.speed import make_trainer, train_for  # noqa: E402
from emkd_jax.config import get_config  # noqa: E402
from emkd_jax.runs.experiment import make_experiment  # noqa: E402
from emkd_jax.runs.results import device_name, versions  # noqa: E402

ROUNDS, SECONDS = 7, 2.0
# The first pattern that is found in the name of an operation tells its part.
PARTS = {
    'attributes added to the items': r'effective',
    'head: logits': r'(?<!transpose\()jvp\(pd,cd->pc\)',
    'head: gradients': r'pc,(cd->pd|pd->cd)',
    'softmax': r'jvp\(\)/(exp|reduce_max|reduce_sum|log|sub|max)',
    'encoder, backward': r'transpose\(jvp\(Network\)\)',
    'encoder, forward': r'jvp\(Network\)',
    'check that all is finite': r'all_finite',
    'optimizer and average': r'select_n|/div|/sqrt|vmap\(\)',
    'order of the epoch': r'sort',
}
OTHER = 'batch, copies, and the rest'


def option(text):
    """The name and the value of '--config.NAME=VALUE'."""
    name, value = text.removeprefix('--config.').split('=', 1)
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def part_of(operation):
    """The part of the step that an operation, by its name in the code, belongs to."""
    for part, pattern in PARTS.items():
        if re.search(pattern, operation):
            return part
    return OTHER


def origins(trainer):
    """The place in the code of each operation of the compiled step."""
    arguments = trainer._states, trainer._data, trainer._count(4), trainer._requests[0]
    text = trainer._advance.lower(*arguments).compile().as_text()
    pattern = r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{op_name="([^"]*)"'
    return dict(re.findall(pattern, text, re.MULTILINE))


def profile(trainer):
    """Milliseconds and operations of each part of a step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps, _ = train_for(trainer, SECONDS)
        [file] = pathlib.Path(folder).rglob('*.trace.json.gz')
        events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
    names, spent, ran = origins(trainer), collections.Counter(), collections.Counter()
    for event in events:
        if event.get('ph') == 'X' and 'hlo_op' in event.get('args', {}):
            part = part_of(names.get(event['name'], ''))
            spent[part] += event['dur'] / 1000
            ran[part] += 1
    return {
        part: {'ms': round(ms / steps, 3), 'operations': round(ran[part] / steps, 1)}
        for part, ms in spent.most_common()
    }


def main():
    """Times and profiles the step, and prints a table and the record."""
    parser = argparse.ArgumentParser(description=__doc__.split(':\n')[0])
    parser.add_argument('--config', required=True)
    arguments, rest = parser.parse_known_args()
    config = get_config(arguments.config, **dict(map(option, rest)))
    trainer = make_trainer(make_experiment(config))
    train_for(trainer, 0.0)  # compiles
    train_for(trainer, SECONDS)
    rounds = []
    for _ in range(ROUNDS):
        steps, seconds = train_for(trainer, SECONDS)
        rounds.append(1000 * seconds / steps)
    parts = profile(trainer)
    record = {
        'command': ' '.join(
            ['python', 'benchmarks/step_profile.py', f'--config={arguments.config}']
            + [text for text in rest if 'data.source' not in text]
            + ['--config.data.source=FOLDER']
        ),
        'date': time.strftime('%Y-%m-%d'),
        'device': device_name(),
        'versions': versions(),
        'ms a step, median': round(statistics.median(rounds), 2),
        'ms a step, rounds': [round(ms, 2) for ms in rounds],
        'parts': parts,
    }
    print(f'{record["ms a step, median"]} ms a step')
    for part, found in parts.items():
        print(f'{found["ms"]:9.2f} ms  {found["operations"]:7.1f} operations  {part}')
    print(json.dumps(record))


if __name__ == '__main__':
    main()
