"""`--mode=report`: how a run went, and for which users it works well, as one page with plots."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from emkd_jax.analysis.html import to_html
from emkd_jax.analysis.plots import COLOURS, EPOCH, check_libraries, figure
from emkd_jax.cli.console import markdown_table, say
from emkd_jax.errors import UserError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.baselines import LIST
from emkd_jax.evaluation.metrics import user_metrics
from emkd_jax.objective import next_item
from emkd_jax.objective.emkd import PARTS
from emkd_jax.runs.results import evaluate_test, read_results, tested_scorers
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.runs.workdir import writing

METRICS = ('HR@10', 'NDCG@10')
_TEST_METRICS = (
    *METRICS,
    'MRR@10',
    *(f'{m}@{LIST}' for m in ('coverage', 'popularity', 'diversity')),
)
_LOSSES = {
    'masked_items': 'cross-entropy of the masked items in nats, the sum over the networks',
    'next_item': 'cross-entropy of the next items in nats, the sum over the networks',
    'attributes': "cross-entropy of the items' attributes, before it is weighted",
    'icl': 'contrast of the views of a sequence within a network',
    'ccl': 'contrast of the same place between networks',
    'kd': "divergence of the networks' predictions from one another, before it is weighted",
}
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
    """Writes report/report.html, and beside it report.md with PNG files, into the workdir of a run.

    A run that has not finished is reported as far as it went.

    Returns:
      The path of report.html.

    Raises:
      UserError: no epoch of the run was validated yet, or a library for reports is missing.
    """
    check_libraries()
    history = run.history()
    trained = [event for event in history if event['kind'] == 'train']
    validated = [event for event in history if event['kind'] == 'validation']
    if not trained or not validated:
        raise UserError(
            f'{run.folder}/metrics.jsonl has no epoch with a validation; a report needs a run that '
            'was trained here.'
        )
    test = run.experiment.split.test
    evaluate = Evaluator(run.config.eval, run.experiment.placed_ensemble, test, counts=run.counts)
    params = run.experiment.place(run.params)
    result = evaluate(params)
    tested = run.results
    if 'beyond_accuracy' not in tested:  # it has not finished, or an earlier version trained it
        tested = evaluate_test(run.experiment, params, run.counts)
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
    parts = _plot_training(folder, trained, validated, rule)
    if compared:
        _plot_diversity(folder / 'diversity.png', compared)
    for name, (label, users) in groups.items():
        _plot_groups(folder / f'{name}.png', label, users)
    differences = compared[-1]['diversity'] if compared else {}
    text = _markdown(run, tested_scorers(tested), parts, groups, differences, student)
    file = folder / 'report.html'
    with writing(file):
        (folder / 'report.md').write_text(text)
        file.write_text(to_html(text, folder))
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


def _plot_training(folder: epath.Path, trained: Events, validated: Events, rule: str) -> list[str]:
    """Draws the losses and the validations, and returns the parts of the loss that there are."""
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
    _plot_curves(folder / 'validation.png', validated, panels, 8.0)
    return parts


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
            axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper')


def _plot_groups(file: epath.Path, label: str, groups: Sequence[UserGroup]) -> None:
    places = np.arange(len(groups))
    with figure(file, width=6.0, height=2.8) as [axis]:
        for side, scorer, colour in ((-0.2, 'ensemble', 0), (0.2, 'network', 5)):
            rates = [getattr(group, scorer) for group in groups]
            axis.bar(places + side, rates, 0.38, color=COLOURS[colour], label=scorer)
        axis.set_xticks(places, [group.label for group in groups])
        axis.set_xlabel(label)
        axis.set_ylabel('test HR@10')
        axis.grid(visible=False, axis='x')
        axis.figure.legend(loc='outside upper right', ncols=2)


def _markdown(
    run: TrainedRun,
    scorers: Mapping[str, Mapping[str, float]],
    parts_of_loss: Sequence[str],
    groups: Mapping[str, tuple[str, Sequence[UserGroup]]],
    differences: Mapping[str, float],
    student: dict[str, Any] | None,
) -> str:
    config, rule = run.config, run.config.eval.rule
    stand_in = '**This is made-up stand-in data, so the figures mean nothing.**'
    parts = [
        f'# {config.name}',
        stand_in if run.dataset.stand_in else '',
        f'{run.dataset.name}, {config.ensemble.num_networks} x {config.model.encoder}. The best '
        f"epoch on validation is {run.record['best']['epoch']}. Test under the rule '{rule}':",
        _metrics_table(
            scorers, [m for m in _TEST_METRICS if any(m in row for row in scorers.values())]
        ),
        f'Coverage is the share of all items that is recommended to anybody among the best {LIST}, '
        'popularity the mean number of training events of a recommended item, and diversity the '
        'mean distance of two recommended items in their attributes.',
        '## Training',
        '![parts of the loss](losses.png)',
        '\n'.join(f'- **{p.replace("_", " ")}**: {_LOSSES[p]}.' for p in parts_of_loss),
        '![validation](validation.png)',
        *_on_differences(differences),
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
            'What this ensemble taught with `--mode=distill`:',
            _metrics_table(student['test'] | {'share of the gain that is kept': kept}, METRICS),
        ]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _on_differences(differences: Mapping[str, float]) -> list[str]:
    if not differences:
        return []
    overlap = f'overlap@{LIST}'
    return [
        '## How the networks differ',
        f'At the last validation, two networks have {differences[overlap]:.0%} of their best '
        f'{LIST} items in common, and the divergence of their predictions is '
        f'{differences["kl"]:.2f} nats. '
        'An ensemble gains from networks that are good and differ.',
        '![diversity](diversity.png)',
    ]


def _metrics_table(rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    def cell(metric: str, value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f'{value:.1f}' if metric.startswith('popularity') else f'{value:.4f}'

    return markdown_table(
        ['', *metrics],
        [[name, *(cell(m, row.get(m, '')) for m in metrics)] for name, row in rows.items()],
    )
