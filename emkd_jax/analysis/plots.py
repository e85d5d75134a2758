"""Plots as PNG files, all in one style. Only reports and studies need Matplotlib."""

import contextlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from emkd_jax.errors import import_extra
from emkd_jax.runs.workdir import writing

EPOCH = 'epoch'  # axes with this label have ticks at whole numbers
COLOURS = ('#2a6f97', '#d1495b', '#66a182', '#edae49', '#8d6a9f', '#5c677d')
_STYLE: Any = {
    'figure.dpi': 150,
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'grid.linewidth': 0.6,
    'legend.frameon': False,
    'axes.titlesize': 10,
    'axes.axisbelow': True,
    'lines.marker': 'o',
    'lines.markersize': 2.5,
}


def check_libraries() -> None:
    """Raises UserError if what a report needs is missing; called before any long work."""
    for name in ('matplotlib', 'markdown'):
        import_extra(name, 'A report', '[report]')


@contextlib.contextmanager
def figure(
    file: epath.Path, panels: int = 1, width: float = 7.0, height: float = 3.2
) -> Iterator[list[Any]]:
    """Gives axes to draw on, side by side, and saves them when the block ends.

    Args:
      file: the PNG file to write.
      panels: the number of axes.
      width, height: size of the figure in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout='constrained')
        FigureCanvasAgg(drawn)  # draws without a screen
        yield list(drawn.subplots(1, panels, squeeze=False)[0])
        for axis in drawn.axes:
            if axis.get_xlabel() == EPOCH:
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        with writing(file), file.open('wb') as out:
            drawn.savefig(out, format='png')
