"""report.md of a study, with its plots, and study.json."""

from typing import Any

import numpy as np
from etils import epath

from emkd_jax.analysis.plots import COLOURS, figure
from emkd_jax.runs.workdir import write_json, writing
from emkd_jax.training.sweep import shown

_PLOT = 'systems.png'
_TITLES = {
    'ablation': 'What does each part of the objective bring?',
    'generality': 'Does the method improve other encoders as well?',
    'ensemble_size': 'How many networks does it take?',
}


def write_report(folder: epath.Path, found: dict[str, Any]) -> None:
    """Writes `found` as study.json, and as report.md and PNG files for people."""
    plot = _plot_by_size if found['study'] == 'ensemble_size' else _plot
    plot(folder / _PLOT, found)
    with writing(folder / 'report.md'):
        (folder / 'report.md').write_text(markdown(found))
        write_json(folder / 'study.json', found)  # the last: the study is finished


def markdown(found: dict[str, Any]) -> str:
    """The report's text."""
    data, config = found['data'], found['config']
    rule, metrics = config['eval']['rule'], list(found['systems'][0]['test'])
    steps = sorted(set(found['steps'].values()))
    lines = [f'# {_TITLES[found["study"]]}', '']
    if data['stand_in']:
        lines += ['**Made-up stand-in data: no figure here means anything.**', '']
    lines += [
        f'{data["name"]}: {data["users"]:,} users, {data["items"]:,} items, '
        f'{data["interactions"]:,} interactions. Test, the whole catalogue ranked under the rule '
        f"'{rule}'. {len(found['seeds'])} seed(s) of each system, {_range(steps)} steps of "
        f'{config["train"]["batch_size"]} sequences; {found["seconds"]:,.0f} s of training on '
        f'{found["device"]}.',
        '',
        _row(['system', *metrics, 'parameters', 'training, sequences/s', 'ranking, users/s']),
        _row(['---', *['---:'] * (len(metrics) + 3)]),
    ]
    for system in found['systems']:
        cost = system['cost']
        lines.append(
            _row(
                [
                    system['name'],
                    *(shown(system['test'][metric]) for metric in metrics),
                    f'{cost["parameters"]:,}',
                    f'{cost["sequences/s"]:,.0f}',
                    f'{cost["users/s"]:,.0f}',
                ]
            )
        )
    lines += [
        '',
        'Mean ± standard deviation over seeds. A system that is alone is the mean over its '
        'networks. Speeds are of one run at a time.',
        '',
        f'![{" and ".join(metrics)}]({_PLOT})',
        '',
        '## Is the difference real?',
        '',
        _row(['better?', 'than', 'metric', 'difference', '95% interval', 'p']),
        _row(['---', '---', '---', '---:', '---:', '---:']),
    ]
    for pair in found['comparisons']:
        for metric, difference in pair['differences'].items():
            value, low, high, p = (difference[k] for k in ('value', 'low', 'high', 'p'))
            lines.append(
                _row(
                    [
                        pair['better'],
                        pair['than'],
                        metric,
                        f'{value:+.4f}',
                        f'{low:+.4f} to {high:+.4f}',
                        f'{p:.4f}',
                    ]
                )
            )
    lines += [
        '',
        'Paired bootstrap: 10,000 resamples of the users, of each user the mean over seeds; '
        'p is two-sided and not corrected for the number of comparisons. It says how sure a '
        'difference is with these runs and other users; how much other runs would differ, the '
        'deviations over seeds above say.',
        '',
    ]
    return '\n'.join(lines)


def _plot(file, found):
    metrics, systems = list(found['systems'][0]['test']), found['systems']
    places = np.arange(len(systems))[::-1]
    with figure(file, len(metrics), height=0.8 + 0.3 * len(systems)) as axes:
        for axis, metric, colour in zip(axes, metrics, COLOURS, strict=False):
            tests = [system['test'][metric] for system in systems]
            axis.barh(
                places,
                [test['mean'] for test in tests],
                color=colour,
                height=0.65,
                xerr=[test['deviation'] or 0 for test in tests],
                error_kw={'linewidth': 1},
            )
            axis.set_yticks(places, [system['name'] for system in systems])
            axis.set_title(metric)
            axis.grid(visible=False, axis='y')
            if axis is not axes[0]:
                axis.tick_params(labelleft=False)


def _plot_by_size(file, found):
    metrics, systems = list(found['systems'][0]['test']), found['systems']
    sizes = [system['changes']['ensemble.num_networks'] for system in systems]
    with figure(file, len(metrics) + 1, width=9.0) as axes:
        for axis, metric, colour in zip(axes, metrics, COLOURS, strict=False):
            tests = [system['test'][metric] for system in systems]
            axis.errorbar(
                sizes,
                [test['mean'] for test in tests],
                yerr=[test['deviation'] or 0 for test in tests],
                color=colour,
                marker='o',
                capsize=3,
            )
            axis.set_title(metric)
        for name, colour in zip(('sequences/s', 'users/s'), COLOURS[2:], strict=False):
            speeds = np.array([system['cost'][name] for system in systems])
            axes[-1].plot(sizes, speeds / speeds[0], marker='o', color=colour, label=name)
        axes[-1].set_title(f'speed, N = {sizes[0]}: 1')
        axes[-1].set_ylim(0)
        axes[-1].legend()
        for axis in axes:
            axis.set_xticks(sizes)
            axis.set_xlabel('networks')


def _row(cells):
    return f'| {" | ".join(cells)} |'


def _range(values):
    return f'{values[0]:,}' if len(values) == 1 else f'{values[0]:,} to {values[-1]:,}'
