"""counts.json: the weight and the settings of the transition counts of a run."""

from collections.abc import Mapping

import jax
from etils import epath

from emkd_jax.data.atomic import write_json
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.results import read_results
from emkd_jax.runs.workdir import writing

_FILE = 'counts.json'


def write_counts(folder: epath.Path, member: CountMember, tried: Mapping[float, float]) -> None:
    """Keeps a member, and the validation NDCG@10 of every weight that was tried."""
    stored = member.to_json() | {
        'validation': {f'{weight:g}': value for weight, value in tried.items()}
    }
    if jax.process_index() == 0:
        with writing(folder / _FILE):
            write_json(folder / _FILE, stored)


def has_counts(folder: epath.Path) -> bool:
    """Whether a run has kept its counts, which it does at its end."""
    return (folder / _FILE).exists()


def read_counts(folder: epath.Path, experiment: Experiment) -> CountMember | None:
    """The transition counts of a finished run; None where it has none.

    Raises:
      UserError: the file is damaged.
    """
    stored = read_results(folder, _FILE)
    if stored is None or not experiment.config.ensemble.counts:
        return None
    return CountMember.from_json(stored, experiment.counted, experiment.data.num_items)
