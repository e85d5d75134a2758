"""Plans Toys and large catalogues for TPUs, none of which is needed.

    python -m benchmarks.tpu_plans OUTPUT [options of launch.py ...]

Runs `--mode=plan` for Toys at 256 sequences per chip on small slices of every kind of TPU. Then
compiles the step and the loss for catalogues of 250,000 items (v5e, v5p) and of 1,000,000 items
(v5p), and writes a record. It needs the extra `plan` and takes 20 minutes.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from emkd_jax.config import get_config
from emkd_jax.data.dataset import Ragged
from emkd_jax.data.windows import windows
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.planning.chips import device_memory
from emkd_jax.planning.cost import compile_loss, step_cost
from emkd_jax.planning.topology import target_devices
from emkd_jax.training.step import make_capacity

ROOT = pathlib.Path(__file__).parents[1]
SLICES = {'v5e:2x2': 4, 'v5e:2x4': 8, 'v4:2x2x1': 4, 'v5p:2x2x1': 4, 'v6e:2x2': 4}
CATALOGUES = (('v5e:2x2', 250_000), ('v5p:2x2x1', 250_000), ('v5p:2x2x1', 1_000_000))
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
        ensemble = make_ensemble(config, num_items, ATTRIBUTES, 'tpu')
        lengths = np.minimum(np.random.default_rng(0).geometric(1 / 8, WINDOWS) + 2, 20)
        ends = np.cumsum(lengths)
        histories = Ragged(np.ones(ends[-1], np.int32), np.append(0, ends))
        rows = windows(histories, config.model.max_len, 1)
        cost = step_cost([config], ensemble, rows, 8, devices)
        positions = make_capacity(config.objective, lengths, ROWS).all_views
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


def main(output: str, *options: str) -> None:
    """Measures everything, and writes the record again after every part."""
    record = {
        'command': 'python -m benchmarks.tpu_plans OUTPUT [--config.data.source=FOLDER]',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')},
        'toys': [],
        'catalogues': [],
    }
    parts = [('catalogues', plan_catalogue, arguments) for arguments in CATALOGUES]
    parts += [('toys', plan_toys, (*arguments, options)) for arguments in SLICES.items()]
    for kind, measure, arguments in parts:
        record[kind].append(measure(*arguments))
        print(record[kind][-1], flush=True)
        pathlib.Path(output).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
