"""Whether every device of a run holds whole item tables, or its share of them."""

import math

import jax

from emkd_jax.cli.console import amount, say
from emkd_jax.errors import UserError
from emkd_jax.model.sharded_tables import table_bytes
from emkd_jax.runs.experiment import Experiment
from emkd_jax.training.memory import device_memory

_OPTION = '--config.ensemble.shard_items'


def fit_tables(experiment: Experiment) -> Experiment:
    """Splits the item tables over the devices if each device cannot hold them whole.

    The memory that is compared is that of the state: the parameters, their moments in Adam, and
    their average. What a step needs beside it is not counted; `--mode=plan` measures it.

    Raises:
      UserError: the state does not fit, split or not; or tables cannot be split in this run.
    """
    config = experiment.config
    memory = device_memory(jax.local_devices())
    devices = jax.device_count()
    tables, rest = table_bytes(experiment.state_shapes())
    wanted, fits = config.ensemble.shard_items, tables + rest <= memory
    if fits and not wanted:
        return experiment
    why = f'{_OPTION}=True' if wanted else f'The state of the run ({amount(tables + rest, "B")})'
    if config.distill.teacher:
        raise UserError(
            f'{why} needs item tables that are split over the devices, which is not possible for '
            'a student yet; lower model.hidden_dim or ensemble.num_networks.'
        )
    if tables / devices + rest > memory:
        left = memory - rest
        needed = f'at least {math.ceil(tables / left)} devices' if left > 0 else 'larger devices'
        raise UserError(
            f'The state of the run takes {amount(tables + rest, "B")}, of which '
            f'{amount(tables, "B")} are item tables. {devices} device(s) with '
            f'{amount(memory, "B")} each cannot hold it, also with tables that are split: it takes '
            f'{needed}, or a smaller model.hidden_dim or ensemble.num_networks.'
        )
    if wanted:
        return experiment
    say(
        f'The state of the run takes {amount(tables + rest, "B")}, and each of {devices} devices '
        f'has {amount(memory, "B")}: the item tables are split over them ({_OPTION}=True).'
    )
    config = config.copy_and_resolve_references()
    config.ensemble.shard_items = True
    return experiment.with_config(config)
