"""`--mode=plan`: what a train step needs of a device, from compiling it and not running it."""

import json
import math
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.ensemble import make_ensemble
from emkd_jax.errors import UserError
from emkd_jax.experiment import make_experiment
from emkd_jax.plan.chips import chip_of, memory_of, roofline
from emkd_jax.plan.cost import step_cost
from emkd_jax.plan.topology import devices_of
from emkd_jax.sweep import members
from emkd_jax.workdir import make_folder, write_json, writing

_COUNTED_ONCE = 'gru4rec'  # the encoder with a loop of its own
_GUESSES = 2  # of the largest batch; each compiles the step


def plan(config: ml_collections.ConfigDict, workdir: str, topology: str) -> dict[str, Any]:
    """Prints the report of `config`'s train step, last as one line of JSON, and returns it.

    Args:
      config: the run's.
      workdir: where plan.json goes, too; '' = nowhere.
      topology: of a TPU slice, as `v5e:2x4`; '' = the devices of this process.

    Raises:
      UserError: there is no such topology, its compiler is missing, or the data is.
    """
    if members(config):
        raise UserError('--mode=plan is of one run; leave train.num_seeds and sweep.* alone.')
    if workdir:
        make_folder(workdir)
    devices = devices_of(topology)
    experiment = make_experiment(config)
    config, data = experiment.config, experiment.data
    ensemble = make_ensemble(config, data.num_items, data.num_attributes, devices[0].platform)
    lengths = (experiment.windows > 0).sum(1)

    def cost_of(batch_size):
        changed = config.copy_and_resolve_references()
        changed.train.batch_size = batch_size
        return step_cost(
            changed, ensemble, experiment.optimizer, lengths, data.item_attributes.shape[1], devices
        )

    batch_size, memory = config.train.batch_size, memory_of(devices)
    cost = cost_of(batch_size)
    report = {
        'config': config.name, 'stand_in': data.stand_in, 'topology': topology,
        'device': devices[0].device_kind, 'devices': len(devices), 'batch_size': batch_size,
        'dtype': str(ensemble.network.encoder.dtype),
        'fits': bool(cost and cost.memory <= memory) if math.isfinite(memory) else None,
        'hbm_bytes_there': memory if math.isfinite(memory) else None,
    }
    if config.model.encoder == _COUNTED_ONCE:
        report['note'] = f'the recurrence of {_COUNTED_ONCE} is counted for one slot only'
    if cost:
        report |= {
            'hbm_bytes': cost.memory, 'temporary_bytes': cost.temporary, 'flops': cost.flops,
            'bytes_accessed': cost.bytes_accessed,
            'compile_seconds': round(cost.compile_seconds, 1),
        } | roofline(chip_of(devices), cost.flops, cost.bytes_accessed, batch_size)
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

    Temporary memory grows a little faster than the batch, for the sequences' contrast with one
    another: so in proportion to the first size, and then between one that fits and one that does
    not, guesses are compiled. From a small size they fall short: ask again with what was found.
    """
    if not math.isfinite(memory):
        return None
    low = high = None  # (size, temporary bytes) that fits, and that does not
    for guesses_left in range(_GUESSES, -1, -1):
        if cost is None:  # the compiler gave up
            high, guess = None, batch_size / 2
        else:
            free = memory - cost.memory + cost.temporary
            if cost.memory <= memory:
                low = batch_size, cost.temporary
            else:
                high = batch_size, cost.temporary
            guess = batch_size * free / cost.temporary
            if low and high:
                share = (free - low[1]) / (high[1] - low[1])
                guess = low[0] + share * (high[0] - low[0])
        guess = int(guess) // devices * devices
        if not guesses_left or guess <= (low[0] if low else 0):
            break
        batch_size, cost = guess, cost_of(guess)
    return low[0] if low else 0


def _print(report):
    def gb(name, digits=2):
        return f'{report[name] / 1e9:.{digits}f} GB'

    there = gb('hbm_bytes_there', 1) if report['hbm_bytes_there'] else 'an unknown size'
    rows = [
        ('devices', f"{report['devices']} x {report['device']}, {report['dtype']} activations"),
        ('global batch', f"{report['batch_size']:,}"),
    ]
    if 'flops' in report:
        rows += [
            ('memory of each', f"{gb('hbm_bytes')} of {there}" + (
                ': it does not fit' if report['fits'] is False else ''
            )),
            ('... for the time of a step', gb('temporary_bytes')),
            ('FLOPs of each and step', f"{report['flops'] / 1e12:.3f} T"),
            ('bytes moved by each and step', gb('bytes_accessed', 1)),
            ('time to compile', f"{report['compile_seconds']} s"),
        ]
    else:
        rows.append(('memory of each', f'more than there is ({there})'))
    if 'roofline_ms' in report:
        rows += [
            ('a step at the roofline', f"{report['roofline_ms']} ms; {report['binds']} binds"),
            ('sequences/s at the roofline', f"{report['sequences_per_second']:,}"),
        ]
    most = report['largest_batch']
    rows.append(('largest global batch', 'unknown' if most is None else f'at least {most:,}'))
    if 'note' in report:
        rows.append(('to be noted', report['note']))
    for name, value in rows:
        print(f'{name:30} {value}')
