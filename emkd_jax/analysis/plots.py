"""Plots as PNG files, in one style. Matplotlib is needed for reports alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from emkd_jax.errors import UserError
from emkd_jax.runs.workdir import writing

EPOCH = 'epoch'  # the label of an axis that counts them
COLOURS = ('#2a6f97', '#d1495b', '#66a182', '#edae49', '#8d6a9f', '#5c677d')
_STYLE = {
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


def check_matplotlib() -> None:
    """Raises UserError where Matplotlib is not installed: before the work that it would end."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            'Reports need Matplotlib, which is not installed; pip install -r '
            'requirements-report.txt.'
        ) from error


@contextlib.contextmanager
def figure(
    file: epath.Path, panels: int = 1, width: float = 7.0, height: float = 3.2
) -> Iterator[list[Any]]:
    """Axes to draw on, side by side; they are saved to `file` at the end.

    Args:
      file: a PNG.
      panels: how many.
      width, height: of the figure, in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout='constrained')
        FigureCanvasAgg(drawn)
        yield list(drawn.subplots(1, panels, squeeze=False)[0])
        for axis in drawn.axes:
            if axis.get_xlabel() == EPOCH:
                axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        with writing(file), file.open('wb') as out:
            drawn.savefig(out, format='png')
