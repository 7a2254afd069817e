"""util.evaluation.charts: SVG that is whole, stays the same and shows the values."""

import sys
import xml.etree.ElementTree
from unittest import mock

import numpy as np
import pytest
from matplotlib.figure import Figure

from util.core.errors import UserError
from util.evaluation import charts
from util.evaluation.eval_tools import Scores


def scores(*percents):
    found = Scores()
    for percent in percents:
        found.add(percent, 100)
    return found


SERIES = {"A": scores(0, 12, 50, 100), "B": scores(50, 50)}


@pytest.fixture
def axes():
    """Return a list that gets the axes of each plot that is written."""
    seen = []
    write = Figure.savefig

    def save(figure, *args, **options):
        seen.append(figure.axes[0])
        return write(figure, *args, **options)

    with mock.patch.object(Figure, "savefig", save):
        yield seen


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.histogram(SERIES),
        lambda: charts.precision(SERIES),
        lambda: charts.bars({"A": {"x": scores(10)}}, ["x"]),
    ],
)
def test_plots_are_svg_and_always_the_same(draw):
    text = draw()
    assert xml.etree.ElementTree.fromstring(text).tag.endswith("svg")
    assert text == draw()


def test_histogram_shows_shares(axes):
    charts.histogram(SERIES)
    for patch, wanted in zip(
        axes[0].patches, ({0: 25, 2: 25, 10: 25, 19: 25}, {10: 100})
    ):
        heights = patch.get_xy()[1:-1:2, 1]
        assert {n: h for n, h in enumerate(heights) if h} == wanted


def test_precision_falls_from_all_to_the_perfect_ones(axes):
    charts.precision(SERIES)
    first, second = (line.get_ydata() for line in axes[0].lines)
    assert first[[0, 1, 12, 13, 50, 51, 100]].tolist() == [100, 75, 75, 50, 50, 25, 25]
    assert second[[0, 50, 51]].tolist() == [100, 100, 0]


def test_bars_stand_at_their_names_and_gaps_where_a_group_is_missing(axes):
    groups = {"A": {"x": scores(10), "z": scores(30)}, "B": {"y": scores(20)}}
    charts.bars(groups, ["x", "y", "z"])
    bars = [
        (round(bar.get_y() + bar.get_height() / 2), bar.get_width())
        for bar in axes[0].patches
    ]
    np.testing.assert_allclose(bars, [(0, 10), (2, 30), (1, 20)])
    assert axes[0].get_xlabel() == "overall IoU (oIoU, cIoU) in %"
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["x", "y", "z"]
    # The first one stands above: values grow downwards.
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]


def test_missing_matplotlib_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"matplotlib: pip install -e '.\[plot\]'"):
        charts.histogram(SERIES)
