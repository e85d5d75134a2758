"""How long it takes until a model is good: this project beside what a user would pick instead.

    python benchmarks/peers.py FOLDER --source=FOLDER_OF_THE_DATA [--systems ...] [--minutes=10]
        [--clone=CLONE_OF_EMKD]

On Toys, each system is trained alone on the machine, one after another, on the same training
events: this project, and SASRec of RecTools (full and sampled softmax) and of RecBole
(cross-entropy), with 64 dimensions, two blocks, one head, 50 items of history, and the libraries'
own defaults for the rest. Transition counts (PCTM) stand beside them. After every epoch a peer
writes the states of the held-out histories and the embeddings of the items, and this project ranks
them: the same users, the same rule (the whole history is excluded). The clock runs in training
alone. A peer ends with the epoch in which its minutes are up, and its best epoch on validation is
tested. RecTools takes hours: called again with more minutes, it goes on after its last epoch. With
a clone of hw-du/EMKD, the speed of the authors' code at the released sizes is measured as well, by
`--mode=benchmark` with batches of 32 sequences, and tells how long an epoch would take. It needs
the extra `torch`.

Each peer has a virtual environment of its own, which the first call makes in FOLDER. The result
is FOLDER/peers.json, FOLDER/peers.png, and a table. Systems of an earlier call that are not named
are kept.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from etils import epath

from emkd_jax.analysis.plots import COLOURS, figure
from emkd_jax.cli.console import print_table
from emkd_jax.config import get_config
from emkd_jax.evaluation.counts import count_ranks
from emkd_jax.evaluation.metrics import host_ranks, metrics_by_rule
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.metrics_log import read_log
from emkd_jax.runs.results import device_name, versions

HERE = pathlib.Path(__file__).absolute().parent
RULE, METRICS, ROWS, SLOTS = 'history', ('HR@10', 'NDCG@10'), 512, 51
SIZES = (
    '--config.model.hidden_dim=64',
    '--config.model.attribute_inputs=False',
    '--config.ensemble.counts=False',
    '--config.ensemble.num_networks=1',
)
EVERY_EPOCH = ('--config.eval.first_epoch=1', '--config.eval.every_epochs=1')
OURS = {
    'emkd_jax: one SASRec': (*SIZES, '--config.train.num_epochs=20', *EVERY_EPOCH),
    'emkd_jax: toys:best': (),
}
# What is installed for a peer, the script that trains it, and its arguments.
RECTOOLS = ('torch==2.13.0', 'rectools[torch]==0.19.0')
RECBOLE = ('torch==2.13.0', 'recbole==1.2.1', 'numpy<2', 'setuptools<81')
PEERS = {
    'RecTools: SASRec, softmax': ('rectools', RECTOOLS, ('--loss=softmax',)),
    'RecTools: SASRec, sampled softmax': ('rectools', RECTOOLS, ('--loss=sampled_softmax',)),
    'RecBole: SASRec, cross-entropy': ('recbole', RECBOLE, ()),
}
COUNTS = 'transition counts (PCTM)'
ORIGINAL = 'EMKD of its authors, released sizes'


def absolute(path):
    """A path that holds in any working folder."""
    return pathlib.Path(path).absolute()


def run_alone(command, log):
    """Runs a command to its end, in the folder of its log. Returns its peak memory in bytes.

    Raises:
      RuntimeError: it failed.
    """
    with log.open('w') as out:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=out, cwd=log.parent
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f'{command[0]} failed; see {log}')
    return usage.ru_maxrss * 1024


def environment(folder, name, packages):
    """Makes the virtual environment of a peer, unless it is there. Returns its Python."""
    python = folder / f'environment_{name}' / 'bin' / 'python'
    if not python.exists():
        run_alone([sys.executable, '-m', 'venv', python.parents[1]], folder / f'{name}_venv.log')
        for last in range(len(packages)):  # one after another: torch's version comes first
            command = [python, '-m', 'pip', 'install', '-q', *packages[: last + 1]]
            run_alone(command, folder / f'{name}_pip.log')
    return python


def write_data(experiment, file):
    """Writes the histories as arrays that need nothing of this project."""
    split = experiment.split
    parts = {
        'train': split.train,
        'validation': split.validation.histories,
        'test': split.test.histories,
        'all': experiment.data.histories,
    }
    arrays = {}
    for name, histories in parts.items():
        arrays |= {f'{name}_offsets': histories.offsets, f'{name}_values': histories.values}
    np.savez(file, **arrays)


def ranked(states, items, holdout):
    """Metrics of states and embeddings whose products are the scores."""
    ranks = []
    for first in range(0, len(states), ROWS):
        rows = np.arange(first, min(first + ROWS, len(states)))
        ranks.append(host_ranks(states[rows] @ items.T, holdout, rows, SLOTS))
    found = metrics_by_rule(np.concatenate(ranks, axis=1), (10,))[RULE]
    return {metric: round(found[metric], 5) for metric in METRICS}


def peer(folder, name, experiment, seconds):
    """Trains a peer, and ranks the states that it wrote."""
    library, packages, arguments = PEERS[name]
    python = environment(folder, library, packages)
    work = folder / name.replace(':', '').replace(' ', '_').replace(',', '')
    work.mkdir(exist_ok=True)
    script = HERE / f'peer_{library}.py'
    command = [python, script, folder / 'data.npz', work, f'--seconds={seconds}', *arguments]
    memory = run_alone(command, work / 'log.txt')
    spent = json.loads((work / 'curve.json').read_text())['seconds']
    curve = []
    for epoch, after in enumerate(spent, start=1):
        found = np.load(work / f'epoch_{epoch}.npz')
        validation = ranked(found['validation'], found['items'], experiment.split.validation)
        curve.append({'epoch': epoch, 'seconds': round(after, 1), **validation})
    best = max(curve, key=lambda point: point['NDCG@10'])['epoch']
    found = np.load(work / f'epoch_{best}.npz')
    return {
        'seconds an epoch': round(spent[-1] / len(spent), 2),
        'peak memory': memory,
        'curve': curve,
        'test': ranked(found['test'], found['items'], experiment.split.test),
        'best epoch': best,
    }


def validations(workdir, rule):
    """Metrics of the ensemble after each validated epoch of a run, with the seconds of training."""
    return [
        {
            'epoch': event['epoch'],
            'seconds': round(event['seconds'], 1),
            **{metric: round(event['ensemble'][rule][metric], 5) for metric in METRICS},
        }
        for event in read_log(epath.Path(workdir))
        if event['kind'] == 'validation'
    ]


def ours(folder, name, source):
    """Trains a recipe of this project with its own command."""
    work = folder / name.replace(':', '_').replace(' ', '_')
    command = [sys.executable, HERE.parent / 'launch.py', '--config=toys:best', *OURS[name]]
    command += [f'--config.data.source={source}', f'--workdir={work}']
    memory = run_alone(command, folder / f'{work.name}.txt')
    results = json.loads((work / 'results.json').read_text())
    curve = validations(work, RULE)
    return {
        'seconds an epoch': round(curve[-1]['seconds'] / curve[-1]['epoch'], 2),
        'peak memory': memory,
        'curve': curve,
        'test': {metric: round(results['test'][RULE][metric], 5) for metric in METRICS},
        'best epoch': max(curve, key=lambda point: point['NDCG@10'])['epoch'],
    }


def counts(experiment):
    """The transition counts: the time to count, and their metrics."""
    began = time.perf_counter()
    model = experiment.count_model
    seconds = time.perf_counter() - began
    found = {}
    for name in ('validation', 'test'):
        ranks = count_ranks(model, getattr(experiment.split, name), SLOTS)
        of_rule = metrics_by_rule(ranks, (10,))[RULE]
        found[name] = {metric: round(of_rule[metric], 5) for metric in METRICS}
    return {
        'seconds an epoch': round(seconds, 2),
        'curve': [{'epoch': 1, 'seconds': round(seconds, 1), **found['validation']}],
        'test': found['test'],
        'best epoch': 1,
    }


def original(folder, clone, source):
    """The time of an epoch of the authors' code, from the speed of some of its steps."""
    work = folder / 'original'
    command = [sys.executable, HERE.parent / 'launch.py', 'benchmark', '--config=toys']
    command += [f'--config.data.source={source}', '--config.train.batch_size=32']
    run_alone([*command, f'--pytorch_repo={clone}', f'--workdir={work}'], folder / 'original.txt')
    found = json.loads((work / 'benchmark.json').read_text())
    speed = found['sequences_per_second']['original']
    return {
        'seconds an epoch': round(found['sizes']['windows'] / speed, 1),
        'peak memory': found['peak_host_bytes']['original'],
        'sequences a second': speed,
    }


def draw(systems, device, file):
    """Draws validation NDCG@10 against the seconds of training, on a logarithmic axis."""
    with figure(file, width=8.0, height=4.2) as [axis]:
        for number, (name, found) in enumerate(systems.items()):
            curve = found.get('curve')
            if curve is None:  # only the speed was measured
                continue
            seconds = [max(point['seconds'], 0.1) for point in curve]  # the axis has no 0
            values = [point['NDCG@10'] for point in curve]
            axis.plot(seconds, values, 'o-', markersize=3.5, label=name, color=COLOURS[number])
        axis.set_xscale('log')
        axis.set_xlabel(f'seconds of training on {device}')
        axis.set_ylabel('validation NDCG@10')
        axis.set_ylim(bottom=0)
        axis.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))


def summary(record):
    """The table of a record: one row for each system."""
    rows = []
    for name, found in record['systems'].items():
        trained = [''] * (2 + len(METRICS))
        if 'curve' in found:
            best = next(p for p in found['curve'] if p['epoch'] == found['best epoch'])
            tested = [f'{found["test"][metric]:.4f}' for metric in METRICS]
            trained = [f'{best["seconds"]:.0f}', f'{best["NDCG@10"]:.4f}', *tested]
        memory = found.get('peak memory')
        gibibytes = f'{memory / 2**30:.1f}' if memory else ''
        rows.append([name, f'{found["seconds an epoch"]:.1f}', *trained, gibibytes])
    return rows


def main():
    """Trains every system, and writes the record, the plot and the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=absolute)
    parser.add_argument('--source', type=absolute, required=True)
    parser.add_argument('--systems', nargs='*', default=[COUNTS, *OURS, *PEERS, ORIGINAL])
    parser.add_argument('--clone', type=absolute, help='of hw-du/EMKD; without it, it is left out')
    parser.add_argument('--minutes', type=float, default=10.0, help='for each peer')
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    experiment = make_experiment(get_config('toys:best', **{'data.source': str(given.source)}))
    write_data(experiment, given.folder / 'data.npz')
    file = given.folder / 'peers.json'
    systems = json.loads(file.read_text())['systems'] if file.exists() else {}
    record = {
        'what': 'Toys, leave-one-out, the whole history excluded. One system after another.',
        'command': 'python benchmarks/peers.py FOLDER --source=FOLDER_OF_THE_DATA '
        f'--minutes={given.minutes:g}',
        'date': time.strftime('%Y-%m-%d'),
        'device': f'{device_name()}, {os.cpu_count()} cores',
        'versions': versions(),
        'systems': systems,
    }
    for name in given.systems:
        print(name, flush=True)
        try:
            if name == COUNTS:
                systems[name] = counts(experiment)
            elif name == ORIGINAL:
                if given.clone:
                    systems[name] = original(given.folder, given.clone, given.source)
            elif name in OURS:
                systems[name] = ours(given.folder, name, given.source)
            else:
                systems[name] = peer(given.folder, name, experiment, 60 * given.minutes)
        except RuntimeError as error:  # the others go on
            print(error, flush=True)
        file.write_text(json.dumps(record, indent=2) + '\n')
        draw(systems, record['device'], epath.Path(given.folder / 'peers.png'))
    print_table(
        'Toys: time to accuracy',
        ['', 's/epoch', 's to best', 'validation NDCG@10', *METRICS, 'GiB'],
        summary(record),
    )


if __name__ == '__main__':
    main()
