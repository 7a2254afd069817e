"""Plots of the scores of one or two tests, as SVG."""

import io
from typing import TYPE_CHECKING, Dict, Sequence

import numpy as np

from util.core import figures
from util.evaluation.eval_tools import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.6, 3.1  # inches: the text stays readable on a phone
STYLES = (  # of the series; colours that colour-blind people tell apart
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#009E73", "linestyle": ":"},
)
BINS = 20
ROW = 0.3  # inches, of a group of bars

Groups = Dict[str, Scores]  # by name


def histogram(series: Groups) -> str:
    """Draw how many sentences have which IoU.

    Args:
      series: label -> Scores, one to three.

    Returns:
      SVG.

    Raises:
      UserError: matplotlib is missing. So do the others.
    """
    figure = figures.new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    edges = np.linspace(0, 100, BINS + 1)
    for (label, scores), style in zip(series.items(), STYLES):
        ious = 100 * scores.ious()
        weights = np.full(len(ious), 100 / len(ious))
        axes.hist(ious, edges, weights=weights, histtype="step", linewidth=1.8,
                  label=label, **style)  # fmt: skip
    axes.set_xlim(0, 100)
    axes.set_ylabel("% of the sentences")
    return _svg(figure, axes, "IoU in %")


def precision(series: Groups) -> str:
    """Draw the share of sentences above each IoU; takes what `histogram` takes."""
    figure = figures.new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    thresholds = np.linspace(0, 1, 101)
    for (label, scores), style in zip(series.items(), STYLES):
        shares = [100 * scores.precision(threshold) for threshold in thresholds]
        axes.plot(100 * thresholds, shares, linewidth=1.8, label=label, **style)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_ylabel("% of the sentences")
    return _svg(figure, axes, "IoU of at least, in %")


def bars(series: Dict[str, Groups], names: Sequence[str]) -> str:
    """Draw the overall IoU of groups.

    Args:
      series: label -> name of the group -> Scores, one to three series; a group may be
        missing.
      names: of the groups, from top to bottom.

    Returns:
      SVG.
    """
    figure = figures.new_figure(WIDTH, 1 + ROW * max(3, len(names)))
    axes = figure.add_subplot()
    thickness = 0.76 / len(series)
    for place, (groups, style) in enumerate(zip(series.items(), STYLES)):
        label, groups = groups
        there = [row for row, name in enumerate(names) if name in groups]
        values = [100 * groups[names[row]].overall_iou for row in there]
        rows = np.array(there) + (place - (len(series) - 1) / 2) * thickness
        axes.barh(rows, values, thickness, label=label, color=style["color"],
                  hatch="///" * place, edgecolor="white", linewidth=0)  # fmt: skip
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    return _svg(figure, axes, "overall IoU (oIoU, cIoU) in %")


def _svg(figure: "Figure", axes, unit: str) -> str:
    """Add what all plots have, and return the SVG."""
    import matplotlib

    axes.set_xlabel(unit)
    axes.grid(color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncol=2, borderaxespad=0, frameon=False
    )
    file = io.StringIO()
    # The same plot is the same text: no random names, no date.
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
