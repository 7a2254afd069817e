"""Figures to draw into, with matplotlib, which is an extra."""

from typing import TYPE_CHECKING

from util.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure with a canvas to save it.

    Args:
      width, height: in inches.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "drawing curves needs matplotlib: pip install -e '.[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
