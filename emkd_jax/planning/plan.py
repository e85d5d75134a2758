"""`--mode=plan`: compiles the train step without running it, and reports what it needs."""

import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.cli.console import amount, print_table, say
from emkd_jax.data.atomic import write_json
from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble, make_ensemble
from emkd_jax.planning.chips import device_chip, device_memory, roofline
from emkd_jax.planning.cost import Cost, step_cost
from emkd_jax.planning.topology import slices_of, target_devices
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.workdir import make_folder, writing
from emkd_jax.training.batches import steps_per_epoch
from emkd_jax.training.sweep import expand_sweep

_GUESSES = 2  # of the largest batch; each compiles the step
SHARE = 0.4  # of the speed at the roofline, which a whole run is planned with as well
_MARGIN = 0.97  # share of the free memory that a guess uses: one just too large would be wasted


def plan(
    config: ml_collections.ConfigDict, workdir: str = '', topology: str = ''
) -> dict[str, Any]:
    """Prints what a train step needs: a table, and as the last line the same figures as JSON.

    Where `train.num_seeds` or `sweep` ask for several runs, the plan is for those that train
    together.

    Args:
      config: the options of the run.
      workdir: folder in which plan.json is written; empty for none.
      topology: a TPU slice such as `v5e:2x4`, or a kind of TPU such as `v5e`, of which the smallest
        slice is found that holds the run; empty for the devices of this process.

    Raises:
      UserError: there is no such slice, its compiler is missing, or an option or the data is wrong.
    """
    if config.distill.teacher:
        raise UserError('--mode=plan plans the training of ensembles; leave distill.teacher out.')
    if workdir:
        make_folder(workdir)
    for name in slices_of(topology):
        with target_devices(name) as devices:
            report = {'topology': name} | _plan(config, devices)
        if report['fits'] is not False:
            break
        if name != topology:
            say(f'{name} cannot hold it.')
    _print(report)
    if workdir:
        path = epath.Path(workdir) / 'plan.json'
        with writing(path):
            write_json(path, report)
    say(json.dumps(report))
    return report


def _plan(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> dict[str, Any]:
    experiment = make_experiment(config)
    config = experiment.config  # whose batch size is known, also where it is left to the data
    data, batch_size = experiment.data, config.train.batch_size
    runs = expand_sweep(experiment.config)[: config.train.max_together]
    whole = make_ensemble(
        runs[0].config,
        data.num_items,
        data.num_attributes,
        devices[0].platform,
        data.item_attributes,
        devices[0].device_kind,
    )
    memory = device_memory(devices)

    def cost_of_batch(ensemble: Ensemble, size: int) -> Cost | None:
        configs = [run.config.copy_and_resolve_references() for run in runs]
        for changed in configs:
            changed.train.batch_size = size
        return step_cost(configs, ensemble, experiment.rows, data.item_attributes.shape[1], devices)

    # Item tables are split where that is asked for, or where a device cannot hold them whole.
    for shards in [len(devices)] if config.ensemble.shard_items else [1, len(devices)]:
        ensemble = whole.sharded(shards)
        cost = cost_of_batch(ensemble, batch_size)
        fits = bool(cost and cost.memory <= memory)
        if fits or len(devices) == 1:
            break
    known = math.isfinite(memory)
    report = {
        'config': config.name,
        'stand_in': data.stand_in,
        'device': devices[0].device_kind,
        'devices': len(devices),
        'runs': len(runs),
        'batch_size': batch_size,
        'dtype': str(ensemble.network.encoder.dtype),
        'fits': fits if known else None,
        'shard_items': ensemble.shards > 1,
        'hbm_bytes_there': memory if known else None,
    }
    options, rows = experiment.config.train, experiment.rows
    per_epoch = steps_per_epoch(len(rows), batch_size)
    report['steps'] = options.num_steps or options.num_epochs * per_epoch
    report['data_bytes'] = sum(leaf.nbytes for leaf in jax.tree.leaves(rows))
    if cost:
        report |= {
            'hbm_bytes': cost.memory,
            'temporary_bytes': cost.temporary,
            'flops': cost.flops,
            'bytes_accessed': cost.bytes_accessed,
            'bytes_between_devices': cost.between,
            'compile_seconds': round(cost.compile_seconds, 1),
        }
        sequences = batch_size * len(runs)
        chip = device_chip(devices)
        report |= roofline(chip, cost.flops, cost.bytes_accessed, sequences)
        if chip and chip.interconnect:
            report['between_ms'] = round(1e3 * cost.between / chip.interconnect, 3)
        if 'roofline_ms' in report:
            hours = report['steps'] * report['roofline_ms'] / 3.6e6
            report |= {'roofline_hours': hours, 'device_hours': hours * len(devices)}
    largest = None
    if known:
        largest = _largest_batch(
            functools.partial(cost_of_batch, ensemble), batch_size, len(devices), cost, memory
        )
    return report | {'largest_batch': largest, 'versions': {'jax': jax.__version__}}


def _largest_batch(
    cost_of_batch: Callable[[int], Cost | None],
    batch_size: int,
    num_devices: int,
    cost: Cost | None,
    memory: float,
) -> int:
    """The largest global batch that was found to fit; 0 if none was.

    Args:
      cost_of_batch: compiles the step for a batch size.
      batch_size: the first size.
      num_devices: the batch must be a multiple of this.
      cost: of the first size; None: the compiler found that it does not fit.
      memory: of a device, in bytes.
    """
    largest = 0
    known: list[tuple[int, int]] = []  # the last two sizes, with their temporary bytes
    for guesses_left in range(_GUESSES, -1, -1):
        if cost is None:
            guess = batch_size / 2
        else:
            if cost.memory <= memory:
                largest = max(largest, batch_size)
            known = [*known[-1:], (batch_size, cost.temporary)]
            guess = _batch_for(memory - (cost.memory - cost.temporary), known)
        guess = int(guess) // num_devices * num_devices
        if not guesses_left or guess <= largest:
            break
        batch_size, cost = guess, cost_of_batch(guess)
    return largest


def _batch_for(free: float, known: Sequence[tuple[int, int]]) -> float:
    """The batch size whose temporary memory fills `free` bytes, less a margin.

    The memory of one known size x is extended in proportion. Through two known sizes goes
    a x + b x^2, since every sequence of the batch is contrasted with every other, or a line where
    a part of the memory does not grow.
    """
    free *= _MARGIN
    (size, needed), *second = known
    per_sequence = needed / size
    if not second or second[0][0] == size:
        return free / per_sequence
    [(other, other_needed)] = second
    quadratic = (other_needed / other - per_sequence) / (other - size)
    if quadratic <= 0:
        return size + (free - needed) * (other - size) / (other_needed - needed)
    linear = max(per_sequence - quadratic * size, 0.0)
    return (math.sqrt(linear**2 + 4 * quadratic * free) - linear) / (2 * quadratic)


def _traffic(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The row of what moves between devices, and how long that takes beside the rest."""
    if report['devices'] == 1:
        return []
    shown = amount(report['bytes_between_devices'], 'B')
    if 'between_ms' in report:
        share = report['between_ms'] / report['roofline_ms']
        shown += f', {report["between_ms"]} ms: {share:.0%} of the time at the roofline'
    return [('sent to other devices, per device and step', shown)]


def _print(report: dict[str, Any]) -> None:
    def size(name: str) -> str:
        return amount(report[name], 'B')

    several = report['runs'] > 1
    there = size('hbm_bytes_there') if report['hbm_bytes_there'] else 'an unknown size'
    rows = [
        ('devices', f'{report["devices"]} x {report["device"]}, {report["dtype"]} activations'),
        ('global batch', f'{report["batch_size"]:,}'),
        ('item tables', 'split over the devices' if report['shard_items'] else 'whole'),
    ]
    if report['topology']:
        rows.insert(0, ('slice', report['topology']))
    if several:
        rows.append(('runs that train together', f'{report["runs"]}, each with this batch'))
    if 'flops' in report:
        verdict = ': it does not fit' if report['fits'] is False else ''
        rows += [
            ('memory per device', f'{size("hbm_bytes")} of {there}{verdict}'),
            ('... only during a step', size('temporary_bytes')),
            ('... for the training data', size('data_bytes')),
            ('products, per device and step', amount(report['flops'], 'FLOP')),
            ('to and from memory, per device and step', size('bytes_accessed')),
            *_traffic(report),
            ('time to compile', f'{report["compile_seconds"]} s'),
        ]
    else:
        rows.append(('memory per device', f'more than there is ({there})'))
    if 'roofline_ms' in report:
        speed = f'{report["sequences_per_second"]:,}' + (' of all runs together' if several else '')
        rows += [
            (
                'step time at the roofline',
                f'{report["roofline_ms"]} ms, bound by {report["binds"]}',
            ),
            ('sequences/s at the roofline', speed),
            *(
                (
                    f'the whole run at {share:.0%} of it',
                    f'{report["steps"]:,} steps, {report["roofline_hours"] / share:.2g} hours, '
                    f'{report["device_hours"] / share:.2g} device-hours',
                )
                for share in (1.0, SHARE)
            ),
        ]
    largest = report['largest_batch']
    found = f'at least {largest:,}' if largest else 'none was found' if largest == 0 else 'unknown'
    rows.append(('largest global batch', found))
    print_table('', ['', ''], rows, text_columns=2)
