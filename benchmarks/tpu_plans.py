"""Plans Toys and large catalogues for TPUs, none of which is needed.

    python -m benchmarks.tpu_plans OUTPUT [options of launch.py ...]

Compiles the step and the loss for catalogues of 250,000 items (v5e, v5p) and of 1,000,000 items
(v5p), and the step with item tables that are split over the chips for 1,000,000 items on v5e and
10,000,000 on v5p. Then runs `--mode=plan` for Toys at 256 sequences per chip on small slices of
every kind of TPU, and writes a record. It needs the extra `plan` and takes half an hour. With
`--parts=split`, only the parts with split tables are made, and the record keeps the others.
"""

import functools
import importlib.metadata
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from emkd_jax.config import get_config
from emkd_jax.data.dataset import Ragged
from emkd_jax.data.windows import Windows, windows
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.model.sharded_tables import table_bytes
from emkd_jax.planning.chips import device_chip, device_memory, roofline
from emkd_jax.planning.cost import compile_loss, step_cost
from emkd_jax.planning.topology import slices_of, target_devices
from emkd_jax.training.dispatch import make_capacity
from emkd_jax.training.state import init_state, make_optimizer

ROOT = pathlib.Path(__file__).parents[1]
SLICES = {'v5e:2x2': 4, 'v5e:2x4': 8, 'v4:2x2x1': 4, 'v5p:2x2x1': 4, 'v6e:2x2': 4}
CATALOGUES = (('v5e:2x2', 250_000), ('v5p:2x2x1', 250_000), ('v5p:2x2x1', 1_000_000))
SPLIT = (('v5e', 1_000_000, 256), ('v5p', 10_000_000, 128))  # kind, items, width
ROWS = 256  # per chip
WINDOWS, ATTRIBUTES = 31_506, 1_027  # of Toys


def plan_toys(topology: str, chips: int, options: Sequence[str]) -> dict:
    """The report of `--mode=plan`."""
    command = [
        *(sys.executable, 'launch.py', 'plan', '--config=toys', f'--topology={topology}'),
        f'--config.train.batch_size={ROWS * chips}',
        *options,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def plan_catalogue(topology: str, num_items: int) -> dict:
    """The memory of the step with this many items, and of the loss alone."""
    with target_devices(topology) as devices:
        config = get_config('toys', **{'train.batch_size': ROWS * len(devices)})
        ensemble = make_ensemble(
            config, num_items, ATTRIBUTES, 'tpu', device_kind=devices[0].device_kind
        )
        rows = toys_windows(config)
        cost = step_cost([config], ensemble, rows, 8, devices)
        positions = make_capacity(config.objective, rows.lengths, ROWS).all_views
        loss = compile_loss(ensemble, positions, num_items + 1, devices[0]).memory_analysis()
        return {
            'topology': topology,
            'num_items': num_items,
            'sequences_per_chip': ROWS,
            'masked_positions': positions,
            'hbm_bytes_there': device_memory(devices),
            'hbm_bytes': cost and cost.memory,
            'step_temporary_bytes': cost and cost.temporary,
            'loss_temporary_bytes': loss.temp_size_in_bytes,
        }


def plan_split(kind: str, num_items: int, width: int) -> dict:
    """The smallest slice of a kind that holds the step with split item tables, and its costs."""
    tried = []
    for topology in slices_of(kind):
        with target_devices(topology) as devices:
            options = {'train.batch_size': ROWS * len(devices), 'model.hidden_dim': width}
            config = get_config('toys', **options)
            whole = make_ensemble(
                config, num_items, ATTRIBUTES, 'tpu', device_kind=devices[0].device_kind
            )
            ensemble = whole.sharded(len(devices))
            cost = step_cost([config], ensemble, toys_windows(config), 8, devices)
            memory, chip = device_memory(devices), device_chip(devices)
            tried.append(topology)
            if cost is None or cost.memory > memory:
                continue
            state = jax.eval_shape(functools.partial(init_state, whole, make_optimizer(1e-3), 0))
            tables, rest = table_bytes(state)
            times = roofline(chip, cost.flops, cost.bytes_accessed, config.train.batch_size)
            between = 1e3 * cost.between / chip.interconnect
            return {
                'kind': kind,
                'num_items': num_items,
                'networks': ensemble.num_networks,
                'width': width,
                'slices_tried': tried,
                'chips': len(devices),
                'sequences_per_chip': ROWS,
                'hbm_bytes_there': memory,
                'hbm_bytes': cost.memory,
                'tables_bytes_all_chips': tables,
                'tables_bytes_per_chip': tables / len(devices),
                'rest_of_state_bytes': rest,
                'step_temporary_bytes': cost.temporary,
                'flops': cost.flops,
                'bytes_accessed': cost.bytes_accessed,
                'bytes_between_chips': cost.between,
                'between_ms': round(between, 2),
                'between_share_of_roofline': round(between / times['roofline_ms'], 3),
                'compile_seconds': round(cost.compile_seconds, 1),
                **times,
            }
    return {'kind': kind, 'num_items': num_items, 'slices_tried': tried}


def toys_windows(config: ml_collections.ConfigDict) -> Windows:
    """Windows as many and as long as those of Toys, of one item."""
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 8, WINDOWS) + 2, 20)
    ends = np.cumsum(lengths)
    histories = Ragged(np.ones(ends[-1], np.int32), np.append(0, ends))
    return windows(histories, config.model.max_len, 1)


def main(output: str, *options: str) -> None:
    """Measures everything, and writes the record again after every part."""
    record = {
        'command': 'python -m benchmarks.tpu_plans OUTPUT [--config.data.source=FOLDER]',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')},
        'toys': [],
        'catalogues': [],
        'split': [],
    }
    parts = [('catalogues', plan_catalogue, arguments) for arguments in CATALOGUES]
    parts += [('split', plan_split, arguments) for arguments in SPLIT]
    parts += [('toys', plan_toys, (*arguments, options)) for arguments in SLICES.items()]
    if '--parts=split' in options:
        parts = [part for part in parts if part[0] == 'split']
        record = json.loads(pathlib.Path(output).read_text()) | {'split': []}
    for kind, measure, arguments in parts:
        record[kind].append(measure(*arguments))
        print(record[kind][-1], flush=True)
        pathlib.Path(output).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
