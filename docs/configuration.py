"""Writes docs/configuration.md: a template, and every option of emkd_jax/config/options.py.

python docs/configuration.py > docs/configuration.md
"""

import itertools
import pathlib
import sys

from emkd_jax.config.options import EVENT_LOG_OPTIONS, OPTIONS, Option

TEMPLATE = pathlib.Path(__file__).parent / 'templates' / 'configuration.md'

GROUPS = {
    'name': ('Run', ''),
    'data': ('Data', 'Which data set, and where it is.'),
    'model': ('Model', 'The [encoder](internals/encoders.md) that every network has.'),
    'ensemble': ('Ensemble', ''),
    'objective': ('Objective', 'The [objective](internals/objective.md) page has the equations.'),
    'optimizer': ('Optimizer', 'The optimizer is Adam.'),
    'train': ('Training', ''),
    'sweep': ('Sweeps', 'Values to try; see [sweeps](studies.md#seeds-and-sweeps).'),
    'distill': ('Students', 'These options apply to [students](studies.md#students).'),
    'checkpoint': ('Checkpoints', ''),
    'eval': ('Evaluation', 'The [evaluation](evaluation.md) page explains these options.'),
    'recommend': ('Recommendation', 'These options apply to [recommendations](serving.md).'),
    'export': ('Export', ''),
}


def row(name: str, option: Option) -> str:
    """The row of one option."""
    default = option.default
    if isinstance(default, tuple):
        default = f'({",".join(map(str, default))})'
    mark = '' if option.changes_results else ' ↻'
    meaning = option.meaning.replace('|', '\\|').replace('<', '&lt;')
    return f'| `{name}`{mark} | {code(default)} | {meaning} | {allowed(option)} |'


def code(value: object) -> str:
    """A value as code; the empty text is shown as two quotation marks."""
    return '`' + ("''" if value == '' else str(value).replace('|', '\\|')) + '`'


def allowed(option: Option) -> str:
    """The allowed values."""
    if option.choices:
        return ', '.join(code(choice) for choice in option.choices)
    bounds = {'≥': option.least, '&gt;': option.above, '&lt;': option.below}
    return ', '.join(f'{sign} {bound:g}' for sign, bound in bounds.items() if bound is not None)


def table(options: dict[str, Option]) -> str:
    """The table of some options."""
    rows = [row(name, option) for name, option in options.items()]
    return '\n'.join(['| Option | Default | Meaning | Allowed |', '|---|---|---|---|', *rows])


def page() -> str:
    """The whole page."""
    parts = []
    grouped = itertools.groupby(
        OPTIONS.items(), key=lambda item: item[0].split('.')[0] if '.' in item[0] else 'name'
    )
    for group, options in grouped:
        title, text = GROUPS.get(group, (group.capitalize(), ''))
        parts += [f'## {title}\n', text and f'{text}\n', table(dict(options)) + '\n']
    parts += [
        '## Event logs\n',
        'These options exist only in the configuration `custom`. The page about '
        '[your own data](your-own-data.md) explains them.\n',
        table(EVENT_LOG_OPTIONS) + '\n',
    ]
    options = '\n'.join(part for part in parts if part)
    return TEMPLATE.read_text(encoding='utf-8').replace('{options}\n', options)


if __name__ == '__main__':
    sys.stdout.buffer.write(page().encode())
