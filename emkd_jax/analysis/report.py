"""`--mode=report`: how a run went, and for which users it works well, as Markdown with plots."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from emkd_jax.analysis.plots import COLOURS, EPOCH, check_matplotlib, figure
from emkd_jax.errors import UserError
from emkd_jax.evaluation import RULES, Evaluator, Result
from emkd_jax.evaluation.metrics import user_metrics
from emkd_jax.objective import next_item
from emkd_jax.objective.emkd import PARTS
from emkd_jax.runs.console import markdown_table, say
from emkd_jax.runs.results import read_results
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.runs.workdir import writing
from emkd_jax.training.placement import replicate

METRICS = ('HR@10', 'NDCG@10')
Events = Sequence[dict[str, Any]]  # of metrics.jsonl
_GROUPS = 6


class UserGroup(NamedTuple):
    """Users whose histories, or whose items to find, are alike.

    Attributes:
      label: the range of the values that these users have in common.
      users: the number of users.
      ensemble: HR@10 of the ensemble.
      network: HR@10 of a single network, the mean over the networks.
    """

    label: str
    users: int
    ensemble: float
    network: float


def report(run: TrainedRun) -> epath.Path:
    """Writes report/report.md with its PNG files into the workdir of a run.

    A run that has not finished is reported as far as it went.

    Returns:
      The path of report.md.

    Raises:
      UserError: no epoch of the run was validated yet, or Matplotlib is missing.
    """
    check_matplotlib()
    history = run.history()
    trained = [event for event in history if event['kind'] == 'train']
    validated = [event for event in history if event['kind'] == 'validation']
    if not trained or not validated:
        raise UserError(
            f'{run.folder}/metrics.jsonl has no epoch with a validation; a report needs a run that '
            'was trained here.'
        )
    test = run.experiment.split.test
    evaluate = Evaluator(run.config.eval, run.experiment.ensemble, test)
    result = evaluate(replicate(run.params, jax.devices()))
    rule = run.config.eval.rule
    hits = user_metrics(result.ranks[:, RULES.index(rule)], 10)['HR@10']
    groups = {
        'length': ('items in the history', group_users(test.histories.lengths, hits)),
        'popularity': ('training events of the item', group_users(_popularity(run), hits)),
    }
    compared = [event for event in validated if event.get('diversity')]
    student = read_results(run.folder / 'student', 'distillation.json')

    folder = run.folder / 'report'
    with writing(folder):
        folder.mkdir(exist_ok=True)
    _plot_training(folder, trained, validated, rule)
    if compared:
        _plot_diversity(folder / 'diversity.png', compared)
    for name, (label, users) in groups.items():
        _plot_groups(folder / f'{name}.png', label, users)
    file = folder / 'report.md'
    with writing(file):
        file.write_text(_markdown(run, result, groups, bool(compared), student))
    say(f'The report is in {file}.')
    return file


def group_users(
    values: Int[np.ndarray, ' users'], hits: Float[np.ndarray, 'scorers users']
) -> list[UserGroup]:
    """Splits users into groups of about equal size by `values`, and averages their hits."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _GROUPS + 1)[1:-1], method='lower'))
    group = np.searchsorted(edges, values)  # a value equal to an edge is in the group below it
    found = []
    for chosen in (group == g for g in np.unique(group)):
        low, high = values[chosen].min(), values[chosen].max()
        label = f'{low:,}' if low == high else f'{low:,} to {high:,}'
        ensemble, *networks = hits[:, chosen].mean(1).tolist()
        found.append(UserGroup(label, int(chosen.sum()), ensemble, float(np.mean(networks))))
    return found


def _popularity(run: TrainedRun) -> Int[np.ndarray, ' users']:
    split = run.experiment.split
    events = np.bincount(split.train.values, minlength=run.dataset.num_items + 1)
    return np.asarray(events[split.test.targets])


def _plot_training(folder: epath.Path, trained: Events, validated: Events, rule: str) -> None:
    known = dict.fromkeys((*PARTS, *next_item.PARTS))
    parts = [part for part in known if any(event.get(part) for event in trained)]
    panels = {part.replace('_', ' '): {'': [event[part] for event in trained]} for part in parts}
    _plot_curves(folder / 'losses.png', trained, panels, 2.4 * len(parts), 2.2)
    scorers = ['ensemble', *(name for name in validated[0] if name.startswith('network_'))]
    panels = {
        f'validation {metric}': {
            scorer.replace('_', ' '): [event[scorer][rule][metric] for event in validated]
            for scorer in scorers
        }
        for metric in METRICS
    }
    _plot_curves(folder / 'validation.png', validated, panels)


def _plot_diversity(file: epath.Path, validated: Events) -> None:
    titles = {'overlap@10': 'share of common items in two top tens', 'kl': 'divergence, nats'}
    panels = {
        title: {'': [event['diversity'][name] for event in validated]}
        for name, title in titles.items()
    }
    _plot_curves(file, validated, panels)


def _plot_curves(
    file: epath.Path,
    events: Events,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    width: float = 7.0,
    height: float = 3.2,
) -> None:
    """Draws {title: {label: a value for each event}} over the epochs."""
    epochs = [event['epoch'] for event in events]
    with figure(file, len(panels), width, height) as axes:
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            for (label, values), colour in zip(curves.items(), itertools.cycle(COLOURS)):
                axis.plot(epochs, values, color=colour, label=label)
            axis.set_title(title)
            axis.set_xlabel(EPOCH)
            if len(curves) > 1:
                axis.legend()


def _plot_groups(file: epath.Path, label: str, groups: Sequence[UserGroup]) -> None:
    places = np.arange(len(groups))
    with figure(file, width=6.0, height=2.8) as [axis]:
        for side, scorer, colour in ((-0.2, 'ensemble', 0), (0.2, 'network', 5)):
            rates = [getattr(group, scorer) for group in groups]
            axis.bar(places + side, rates, 0.38, color=COLOURS[colour], label=scorer)
        axis.set_xticks(places, [group.label for group in groups])
        axis.set_xlabel(label)
        axis.set_title('test HR@10')
        axis.grid(visible=False, axis='x')
        axis.legend()


def _markdown(
    run: TrainedRun,
    result: Result,
    groups: Mapping[str, tuple[str, Sequence[UserGroup]]],
    with_diversity: bool,
    student: dict[str, Any] | None,
) -> str:
    config, rule = run.config, run.config.eval.rule
    scorers = {'ensemble': result.ensemble} | {
        f'network {n}': network for n, network in enumerate(result.networks)
    }
    stand_in = '**This is made-up stand-in data, so the figures mean nothing.**'
    parts = [
        f'# {config.name}',
        stand_in if run.dataset.stand_in else '',
        f'{run.dataset.name}, {config.ensemble.num_networks} x {config.model.encoder}. The best '
        f"epoch on validation is {run.record['best']['epoch']}. Test under the rule '{rule}':",
        _metrics_table({name: metrics[rule] for name, metrics in scorers.items()}),
        '## Training',
        '![parts of the loss](losses.png)',
        '![validation](validation.png)',
        '## How the networks differ\n\n![diversity](diversity.png)' if with_diversity else '',
        '## Which users are served well',
    ]
    for name, (label, users) in groups.items():
        rows = [
            [group.label, f'{group.users:,}', f'{group.ensemble:.4f}', f'{group.network:.4f}']
            for group in users
        ]
        columns = [label, 'users', 'HR@10, ensemble', 'HR@10, mean over its networks']
        parts += [f'![HR@10 by {name}]({name}.png)', markdown_table(columns, rows, 0)]
    if student:
        kept = {
            metric: 'no gain' if share is None else f'{share:.0%}'
            for metric, share in student['kept'].items()
        }
        parts += [
            '## Its student',
            'One network that was trained by this ensemble with `--mode=distill`:',
            _metrics_table(student['test'] | {'share of the gain that is kept': kept}),
        ]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _metrics_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    def cell(value: float | str) -> str:
        return value if isinstance(value, str) else f'{value:.4f}'

    return markdown_table(
        ['', *METRICS], [[name, *(cell(row[m]) for m in METRICS)] for name, row in rows.items()]
    )
