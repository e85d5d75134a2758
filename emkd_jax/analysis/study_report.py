"""The report of a study: report.md with its plot, and study.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from emkd_jax.analysis.plots import COLOURS, figure
from emkd_jax.analysis.statistics import RESAMPLES
from emkd_jax.cli.console import markdown_table
from emkd_jax.runs.results import write_results
from emkd_jax.runs.summary import format_mean_std
from emkd_jax.runs.workdir import writing

_PLOT = 'systems.png'
_SMALLER = (
    'The networks do not teach each other here, so one ensemble was trained for each seed, and the '
    'smaller ensembles are its first networks. '
)


def write_report(folder: epath.Path, found: dict[str, Any]) -> None:
    """Writes what a study found as report.md with a plot, and then as study.json."""
    _plot(folder / _PLOT, found['systems'])
    with writing(folder / 'report.md'):
        (folder / 'report.md').write_text(markdown(found))
    write_results(folder, found, 'study.json')  # last: from now on the study is finished


def markdown(found: dict[str, Any]) -> str:
    """Returns the text of the report."""
    data, train, rule = found['data'], found['config']['train'], found['config']['eval']['rule']
    metrics = list(found['systems'][0]['test'])
    steps = sorted(set(found['steps'].values()))
    stand_in = '**This is made-up stand-in data, so the figures mean nothing.**\n\n'
    return f"""# {found.get('question', found['study'])}

{stand_in if data['stand_in'] else ''}The data set is {data['name']}: {data['users']:,} users, \
{data['items']:,} items and {data['interactions']:,} interactions. The figures are those of the \
test: the whole catalogue is ranked under the rule '{rule}'. Each system was trained with \
{len(found['seeds'])} seed(s), for {_range(steps)} steps of {train['batch_size']} sequences. All \
training together took {found['seconds']:,.0f} s on {found['device']}.

{_systems_table(found['systems'], metrics)}

Metrics are the mean ± standard deviation over seeds. A system that is alone is the mean over its \
networks. {_SMALLER if any(s.get('first') for s in found['systems']) else ''}Speeds are those of \
one run at a time.

![metrics and training speed]({_PLOT})

## Is the difference real?

{_comparisons_table(found['comparisons'])}

The intervals and p-values come from a paired bootstrap: the users are resampled {RESAMPLES:,} \
times, and each counts with the mean over seeds. The p-values are two-sided and not corrected for \
the number of comparisons. They tell how certain a difference between these runs is for other \
users. How much other runs would differ is shown by the standard deviations over seeds above.
"""


def _systems_table(systems: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    rows = []
    for system in systems:
        tests, cost = system['test'], system['cost']
        values = [format_mean_std(tests[metric]) for metric in metrics]
        costs = [f'{cost[name]:,.0f}' for name in ('parameters', 'sequences/s', 'users/s')]
        rows.append([system['name'], *values, *costs])
    columns = ['system', *metrics, 'parameters', 'training, sequences/s', 'ranking, users/s']
    return markdown_table(columns, rows)


def _comparisons_table(comparisons: Sequence[dict[str, Any]]) -> str:
    rows = []
    for pair in comparisons:
        for metric, found in pair['differences'].items():
            interval = f'{found["low"]:+.4f} to {found["high"]:+.4f}'
            figures = [f'{found["value"]:+.4f}', interval, f'{found["p"]:.4f}']
            rows.append([pair['better'], pair['than'], metric, *figures])
    columns = ['system', 'compared with', 'metric', 'difference', '95% interval', 'p']
    return markdown_table(columns, rows, text_columns=3)


def _plot(file: epath.Path, systems: Sequence[dict[str, Any]]) -> None:
    """Draws a bar for each system: its metrics with standard deviations, and its training speed."""
    places = np.arange(len(systems))[::-1]
    panels: dict[str, tuple[list[float], list[float] | None]] = {
        metric: (
            [system['test'][metric]['mean'] for system in systems],
            [system['test'][metric]['deviation'] or 0 for system in systems],
        )
        for metric in systems[0]['test']
    }
    panels['training, sequences/s'] = [s['cost']['sequences/s'] for s in systems], None
    with figure(file, len(panels), 8.0, height=0.8 + 0.3 * len(systems)) as axes:
        for axis, (title, (values, deviations)), colour in zip(
            axes, panels.items(), COLOURS, strict=False
        ):
            axis.barh(places, values, 0.65, color=colour, xerr=deviations)
            axis.set_yticks(places, [system['name'] for system in systems])
            axis.set_title(title)
            axis.grid(visible=False, axis='y')
            if axis is not axes[0]:
                axis.tick_params(labelleft=False)


def _range(values: Sequence[int]) -> str:
    return f'{values[0]:,}' if len(values) == 1 else f'{values[0]:,} to {values[-1]:,}'
