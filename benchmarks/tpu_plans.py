"""What Toys and large catalogues need of TPUs, compiled ahead: tpu_plans.py OUTPUT [OPTION ...]

Runs `--mode=plan` for Toys at 256 sequences a chip on small slices of every kind of TPU (OPTIONs go
to launch.py), then compiles the step and the streamed loss for catalogues of 250,000 items (v5e)
and 1,000,000 (v5p). Writes a record. Needs requirements-plan.txt and no TPU; takes 20 minutes.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import toys
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.planning.chips import memory_of
from emkd_jax.planning.cost import compile_loss, step_cost
from emkd_jax.planning.topology import devices_of
from emkd_jax.training.step import make_capacity, make_optimizer

SLICES = {'v5e:2x2': 4, 'v5e:2x4': 8, 'v4:2x2x1': 4, 'v5p:2x2x1': 4, 'v6e:2x2': 4}
CATALOGUES = (('v5e:2x2', 250_000), ('v5p:2x2x1', 250_000), ('v5p:2x2x1', 1_000_000))
ROWS = 256  # a chip
WINDOWS, ATTRIBUTES = 31_506, 1_027  # of Toys


def plan_toys(topology: str, chips: int, options: list[str]) -> dict:
    """The report of `--mode=plan`."""
    done = subprocess.run(
        [
            sys.executable,
            'launch.py',
            '--config=configs/toys.py',
            '--mode=plan',
            f'--topology={topology}',
            f'--config.train.batch_size={ROWS * chips}',
            *options,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    return json.loads(done.stdout.splitlines()[-1])


def plan_catalogue(topology: str, num_items: int) -> dict:
    """Memory of the step with so many items, and of the streamed loss alone."""
    devices = devices_of(topology)
    config = toys.get_config()
    config.train.batch_size = ROWS * len(devices)
    ensemble = make_ensemble(config, num_items, ATTRIBUTES, 'tpu')
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 8, WINDOWS) + 2, 20)
    cost = step_cost(config, ensemble, make_optimizer(config.optimizer), lengths, 8, devices)
    positions = make_capacity(config.objective, lengths, ROWS).all_views
    loss = compile_loss(ensemble, positions, num_items + 1, devices[0]).memory_analysis()
    return {
        'topology': topology,
        'num_items': num_items,
        'sequences_per_chip': ROWS,
        'masked_positions': positions,
        'hbm_bytes_there': memory_of(devices),
        'hbm_bytes': cost and cost.memory,
        'step_temporary_bytes': cost and cost.temporary,
        'loss_temporary_bytes': loss.temp_size_in_bytes,
    }


def main(output: str, *options: str) -> None:
    """Measures everything and writes the record after every part."""
    record = {
        'command': 'python benchmarks/tpu_plans.py OUTPUT [--config.data.source=FOLDER]',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')},
        'toys': [],
        'catalogues': [],
    }
    parts = [('catalogues', plan_catalogue, of) for of in CATALOGUES]
    parts += [('toys', plan_toys, (*of, list(options))) for of in SLICES.items()]
    for kind, measure, of in parts:
        record[kind].append(measure(*of))
        print(record[kind][-1], flush=True)
        pathlib.Path(output).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
