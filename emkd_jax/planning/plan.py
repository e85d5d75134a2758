"""`--mode=plan`: what a train step needs of a device, from compiling it and not running it."""

import json
import math
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.planning.chips import chip_of, memory_of, roofline
from emkd_jax.planning.cost import step_cost
from emkd_jax.planning.topology import devices_of
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.workdir import make_folder, write_json, writing
from emkd_jax.training.sweep import members, together

_COUNTED_ONCE = 'gru4rec'  # the encoder with a loop of its own
_GUESSES = 2  # of the largest batch; each compiles the step
_MARGIN = 0.97  # of the free memory: a guess just too large is lost


def plan(config: ml_collections.ConfigDict, workdir: str, topology: str) -> dict[str, Any]:
    """Prints the report of `config`'s train step, last as one line of JSON, and returns it.

    Args:
      config: the run's.
      workdir: where plan.json goes, too; '' = nowhere.
      topology: of a TPU slice, as `v5e:2x4`; '' = the devices of this process.

    Raises:
      UserError: there is no such topology, its compiler is missing, or the data is.
    """
    if config.distill.teacher:
        raise UserError("--mode=plan is of an ensemble's own training; leave distill.teacher out.")
    if workdir:
        make_folder(workdir)
    devices = devices_of(topology)
    experiment = make_experiment(config)
    runs = members(experiment.config)[: config.train.max_together]
    several = together(runs) if runs else None
    if runs:
        experiment = experiment.with_config(runs[0].config)
    config, data = experiment.config, experiment.data
    ensemble = make_ensemble(config, data.num_items, data.num_attributes, devices[0].platform)
    lengths = (experiment.windows > 0).sum(1)

    def cost_of(batch_size):
        changed = config.copy_and_resolve_references()
        changed.train.batch_size = batch_size
        return step_cost(
            changed,
            ensemble,
            experiment.optimizer,
            lengths,
            data.item_attributes.shape[1],
            devices,
            several,
        )

    batch_size, memory = config.train.batch_size, memory_of(devices)
    cost = cost_of(batch_size)
    report = {
        'config': config.name,
        'stand_in': data.stand_in,
        'topology': topology,
        'device': devices[0].device_kind,
        'devices': len(devices),
        'runs': len(runs) or 1,
        'batch_size': batch_size,
        'dtype': str(ensemble.network.encoder.dtype),
        'fits': bool(cost and cost.memory <= memory) if math.isfinite(memory) else None,
        'hbm_bytes_there': memory if math.isfinite(memory) else None,
    }
    if config.model.encoder == _COUNTED_ONCE:
        report['note'] = f'the recurrence of {_COUNTED_ONCE} is counted for one slot only'
    if cost:
        report |= {
            'hbm_bytes': cost.memory,
            'temporary_bytes': cost.temporary,
            'flops': cost.flops,
            'bytes_accessed': cost.bytes_accessed,
            'compile_seconds': round(cost.compile_seconds, 1),
        } | roofline(chip_of(devices), cost.flops, cost.bytes_accessed, batch_size * report['runs'])
    report['largest_batch'] = _largest_batch(cost_of, batch_size, len(devices), cost, memory)
    report['versions'] = {'jax': jax.__version__}
    _print(report)
    if workdir:
        path = epath.Path(workdir) / 'plan.json'
        with writing(path):
            write_json(path, report)
    print(json.dumps(report))
    return report


def _largest_batch(cost_of, batch_size, devices, cost, memory):
    """The largest global batch found to fit; None where the memory is not known.

    Each guess is compiled: first in proportion to the size asked about, then by a x + b x^2 through
    the last two sizes, the square being that of the sequences' contrast with one another, or by
    a + b x where less of the memory grows.
    """
    if not math.isfinite(memory):
        return None
    most, known = 0, []  # (size, temporary bytes)
    for guesses_left in range(_GUESSES, -1, -1):
        if cost is None:  # the compiler gave up
            guess = batch_size / 2
        else:
            free = memory - cost.memory + cost.temporary
            if cost.memory <= memory:
                most = max(most, batch_size)
            known = [*known[-1:], (batch_size, cost.temporary)]
            guess = _size_of(free, known)
        guess = int(guess) // devices * devices
        if not guesses_left or guess <= most:
            break
        batch_size, cost = guess, cost_of(guess)
    return most


def _size_of(temporary, known):
    """A batch that needs a little less than that, after one or two sizes that are known."""
    temporary *= _MARGIN
    (size, needed), *second = known
    each = needed / size
    if not second or second[0][0] == size:
        return temporary / each
    [(other, of_other)] = second
    bend = (of_other / other - each) / (other - size)
    if bend <= 0:  # a part does not grow with the batch: the line through both
        return size + (temporary - needed) * (other - size) / (of_other - needed)
    slope = max(each - bend * size, 0.0)
    return (math.sqrt(slope**2 + 4 * bend * temporary) - slope) / (2 * bend)


def _print(report):
    def gb(name, digits=2):
        return f'{report[name] / 1e9:.{digits}f} GB'

    there = gb('hbm_bytes_there', 1) if report['hbm_bytes_there'] else 'an unknown size'
    rows = [
        ('devices', f'{report["devices"]} x {report["device"]}, {report["dtype"]} activations'),
        ('global batch', f'{report["batch_size"]:,}'),
    ]
    of_all = ''
    if report['runs'] > 1:
        of_all = ' in all'
        rows.append(('runs that train together', f'{report["runs"]}, each with this batch'))
    if 'flops' in report:
        rows += [
            (
                'memory of each',
                f'{gb("hbm_bytes")} of {there}'
                + (': it does not fit' if report['fits'] is False else ''),
            ),
            ('... for the time of a step', gb('temporary_bytes')),
            ('FLOPs of each and step', f'{report["flops"] / 1e12:.3f} T'),
            ('bytes moved by each and step', gb('bytes_accessed', 1)),
            ('time to compile', f'{report["compile_seconds"]} s'),
        ]
    else:
        rows.append(('memory of each', f'more than there is ({there})'))
    if 'roofline_ms' in report:
        rows += [
            ('a step at the roofline', f'{report["roofline_ms"]} ms; {report["binds"]} binds'),
            ('sequences/s at the roofline', f'{report["sequences_per_second"]:,}' + of_all),
        ]
    most = report['largest_batch']
    most = f'at least {most:,}' if most else 'none was found' if most == 0 else 'unknown'
    rows.append(('largest global batch', most))
    if 'note' in report:
        rows.append(('to be noted', report['note']))
    for name, value in rows:
        print(f'{name:30} {value}')
