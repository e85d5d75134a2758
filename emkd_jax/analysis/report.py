"""`--mode=report`: how a run went, and for whom it is good, as Markdown with plots."""

from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from emkd_jax.analysis.plots import COLOURS, EPOCH, check_matplotlib, figure
from emkd_jax.errors import UserError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.metrics import user_metrics
from emkd_jax.objective.emkd import PARTS
from emkd_jax.runs.evaluate import best_params
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.reporting import read_log, say
from emkd_jax.runs.results import default_workdir, read_results
from emkd_jax.runs.workdir import writing
from emkd_jax.training.placement import replicate

_BINS = 6


def report(config: ml_collections.ConfigDict, workdir: str = '') -> epath.Path:
    """Writes report/report.md with its PNG files into a run's workdir, and returns its path.

    A run that is not finished is reported as far as it is.

    Raises:
      UserError: the workdir holds no run of this configuration, or none that was validated yet.
    """
    check_matplotlib()
    experiment = make_experiment(config)
    folder = epath.Path(workdir or default_workdir(experiment))
    params, record = best_params(experiment, str(folder))
    trained, validated = (
        [event for event in read_log(folder) if event['kind'] == kind]
        for kind in ('train', 'validation')
    )
    if not trained or not validated:
        raise UserError(
            f'{folder}/metrics.jsonl tells of no epoch with a validation; a report shows how a run '
            'went that was trained here.'
        )
    rule = config.eval.rule
    evaluate = Evaluator(config.eval, experiment.ensemble, experiment.split.test)
    result = evaluate(replicate(params, jax.devices()))
    hits = user_metrics(result.ranks[:, RULES.index(rule)], 10)['HR@10']
    groups = {
        'length': ('history, items', _by(_lengths(experiment), hits)),
        'popularity': ('training events of the item to find', _by(_popularity(experiment), hits)),
    }

    target = folder / 'report'
    with writing(target):
        target.mkdir(exist_ok=True)
    _plot_parts(target / 'losses.png', trained)
    _plot_validation(target / 'validation.png', validated, rule)
    diverse = [line for line in validated if line.get('diversity')]
    if diverse:
        _plot_diversity(target / 'diversity.png', diverse)
    for name, (label, groups_of) in groups.items():
        _plot_groups(target / f'{name}.png', label, groups_of)
    file = target / 'report.md'
    with writing(file):
        student = read_results(folder / 'student', 'distillation.json')
        file.write_text(_markdown(experiment, record, result, groups, bool(diverse), student))
    say(f'{file} is written.')
    return file


def _lengths(experiment):
    return experiment.split.test.histories.lengths


def _popularity(experiment):
    counts = np.bincount(experiment.split.train.values, minlength=experiment.data.num_items + 1)
    return counts[experiment.split.test.targets]


def _by(
    values: Int[np.ndarray, ' users'], hits: Float[np.ndarray, 'scorers users']
) -> list[dict[str, Any]]:
    """Users in about equal groups by `values`: their range and number, HR@10 of every scorer."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1], method='lower'))
    group = np.searchsorted(edges, values)  # up to and with an edge
    return [
        {
            'low': int(values[chosen].min()),
            'high': int(values[chosen].max()),
            'users': int(chosen.sum()),
            'HR@10': hits[:, chosen].mean(1).tolist(),
        }
        for chosen in (group == g for g in np.unique(group))
    ]


def _plot_parts(file, lines):
    shown = [part for part in PARTS if any(line[part] for line in lines)]
    with figure(file, len(shown), width=2.4 * len(shown), height=2.2) as axes:
        for axis, part in zip(axes, shown, strict=True):
            axis.plot(
                [line['epoch'] for line in lines], [line[part] for line in lines], color=COLOURS[0]
            )
            axis.set_title(part.replace('_', ' '))
            axis.set_xlabel(EPOCH)


def _plot_validation(file, lines, rule):
    epochs = [line['epoch'] for line in lines]
    networks = sum(name.startswith('network_') for name in lines[0])
    with figure(file, 2) as axes:
        for axis, metric in zip(axes, ('HR@10', 'NDCG@10'), strict=True):
            for n in range(networks):
                axis.plot(
                    epochs,
                    [line[f'network_{n}'][rule][metric] for line in lines],
                    color=COLOURS[5],
                    alpha=0.6,
                    linewidth=1,
                    label='its networks' if n == 0 else None,
                )
            axis.plot(
                epochs,
                [line['ensemble'][rule][metric] for line in lines],
                color=COLOURS[1],
                label='ensemble',
            )
            axis.set_title(f'validation {metric}')
            axis.set_xlabel(EPOCH)
            axis.set_ylim(0)
        axes[0].legend()


def _plot_diversity(file, lines):
    titles = {'overlap@10': 'share of the top 10 in common', 'kl': 'divergence, nats'}
    with figure(file, 2) as axes:
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            axis.plot(
                [line['epoch'] for line in lines],
                [line['diversity'][name] for line in lines],
                color=COLOURS[2],
            )
            axis.set_title(title)
            axis.set_xlabel(EPOCH)
            axis.set_ylim(0)


def _plot_groups(file, label, groups):
    places = np.arange(len(groups))
    of_networks = [np.mean(group['HR@10'][1:]) for group in groups]
    with figure(file, width=6.0, height=2.8) as [axis]:
        axis.bar(
            places - 0.2,
            [group['HR@10'][0] for group in groups],
            0.38,
            color=COLOURS[1],
            label='ensemble',
        )
        axis.bar(places + 0.2, of_networks, 0.38, color=COLOURS[5], label='a network, on average')
        axis.set_xticks(places, [_range(group) for group in groups])
        axis.set_xlabel(label)
        axis.set_title('test HR@10')
        axis.grid(visible=False, axis='x')
        axis.legend()


def _markdown(
    experiment: Experiment,
    record: dict[str, Any],
    result: Any,
    groups: dict[str, tuple[str, list[dict[str, Any]]]],
    diverse: bool,
    student: dict[str, Any] | None,
) -> str:
    config, data = experiment.config, experiment.data
    rule = config.eval.rule
    lines = [f'# {config.name}', '']
    if data.stand_in:
        lines += ['**Made-up stand-in data: no figure here means anything.**', '']
    lines += [
        f'{data.name}, {config.ensemble.num_networks} x {config.model.encoder}; the best epoch on '
        f"validation is {record['best']['epoch']}. Test, rule '{rule}':",
        '',
        '| | HR@10 | NDCG@10 |',
        '| --- | ---: | ---: |',
        *_table(
            {'ensemble': result.ensemble[rule]}
            | {f'network {n}': network[rule] for n, network in enumerate(result.networks)}
        ),
        '',
        '## Training',
        '',
        '![parts of the objective](losses.png)',
        '',
        '![validation](validation.png)',
        '',
    ]
    if diverse:
        lines += ['## How the networks differ', '', '![diversity](diversity.png)', '']
    lines += ['## For whom', '']
    for name, (label, of_groups) in groups.items():
        lines += [
            f'![HR@10 by {name}]({name}.png)',
            '',
            f'| {label} | users | HR@10, ensemble | HR@10, a network |',
            '| ---: ' * 4 + '|',
            *(
                f'| {_range(group)} | {group["users"]:,} | {group["HR@10"][0]:.4f} | '
                f'{np.mean(group["HR@10"][1:]):.4f} |'
                for group in of_groups
            ),
            '',
        ]
    if student:
        lines += [
            '## Its student',
            '',
            'One network, taught by this ensemble (`--mode=distill`):',
            '',
            '| | HR@10 | NDCG@10 |',
            '| --- | ---: | ---: |',
            *_table(student['test']),
            f'| share of the gain that is kept | {_share(student["kept"]["HR@10"])} | '
            f'{_share(student["kept"]["NDCG@10"])} |',
            '',
        ]
    return '\n'.join(lines)


def _table(rows):
    return [f'| {name} | {of["HR@10"]:.4f} | {of["NDCG@10"]:.4f} |' for name, of in rows.items()]


def _share(kept):
    return 'no gain' if kept is None else f'{kept:.0%}'


def _range(group):
    low, high = group['low'], group['high']
    return f'{low:,}' if low == high else f'{low:,} to {high:,}'
