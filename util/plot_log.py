"""Draw the training curves of one or several runs into one PNG.

A run is the folder where a training left its log.jsonl, or such a file itself. Scores
are drawn where an eval.jsonl lies beside it.
"""

import argparse
import colorsys
import json
import math
import os
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Tuple,
)

import numpy as np

from util.core.cli import OneLineParser, count, exit_code, within
from util.core.errors import UserError
from util.core.figures import new_figure
from util.core.files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG, EVALUATIONS, CURVES = "log.jsonl", "eval.jsonl", "curves.png"

EXAMPLES = """examples:
  python -m util.plot_log ckpts/unc/cmpc_model
  python -m util.plot_log ckpts/unc/first ckpts/unc/second --output both.png --smooth 20
"""

INCHES = (12, 2.9)  # width, height of a row of panels

DOTS = 110  # an inch

INK, GRID = "0.25", "0.9"  # shades of grey

STRONG = {"linewidth": 1.6, "zorder": 3}

DASHED = {"linewidth": 1.3, "linestyle": "--"}

DOTTED = {"linewidth": 1.3, "linestyle": ":"}

THIN = {"linewidth": 0.8}

FAINT = {"linewidth": 0.7, "alpha": 0.3}

MARKERS = "osD^vP"  # of splits

Columns = Dict[str, np.ndarray]


class Curve(NamedTuple):
    """One key of the files as a line.

    Attributes:
      key: whose values are drawn.
      label: says in the legend of the panel what the style means.
      style: properties of the line, apart from its colour.
      is_smoothed: whether --smooth is for it.
    """

    key: str
    label: str
    style: Dict[str, Any]
    is_smoothed: bool = True


class Panel(NamedTuple):
    """Curves that share their axes; `unit` stands beside the rows' axis."""

    title: str
    unit: str
    curves: Sequence[Curve]


LOSSES = Panel(
    "Loss",
    "nats an image",
    (
        Curve("loss", "final map, now", FAINT, is_smoothed=False),
        Curve("loss_avg", "average", STRONG),
        Curve("loss_c5", "level c5", {**THIN, "linestyle": "-."}),
        Curve("loss_c4", "c4", {**THIN, "linestyle": "--"}),
        Curve("loss_c3", "c3", {**THIN, "linestyle": ":"}),
    ),
)

ACCURACIES = Panel(
    "Accuracy, average",
    "share of the cells",
    (
        Curve("accuracy_all_avg", "all cells", STRONG),
        Curve("accuracy_pos_avg", "on the object", DASHED),
        Curve("accuracy_neg_avg", "off it", DOTTED),
    ),
)

SCORES = Panel(
    "Score",
    "IoU",
    (Curve("overall_iou", "overall", STRONG), Curve("mean_iou", "mean", DASHED)),
)

RATES = (
    Panel(
        "Regularisation", "added to the loss", (Curve("regularisation", "", STRONG),)
    ),
    Panel(
        "Learning rate",
        "size of Adam's steps",
        (Curve("learning_rate", "", STRONG, is_smoothed=False),),
    ),
    Panel("Speed", "sentences a second", (Curve("sentences_per_s", "", STRONG),)),
    Panel("Memory", "MB", (Curve("memory_mb", "", STRONG, is_smoothed=False),)),
)

LOG_KEYS = [
    curve.key for panel in (LOSSES, ACCURACIES, *RATES) for curve in panel.curves
]

SCORE_KEYS = [curve.key for curve in SCORES.curves]


class Run(NamedTuple):
    """What one training left.

    Attributes:
      name: for the legend.
      log: "step" and LOG_KEYS -> float64 [lines]; NaN where a value is not finite.
      scores: split -> "step" and SCORE_KEYS -> float64 [evaluations].
    """

    name: str
    log: Columns
    scores: Dict[str, Columns]


def read_run(path: str, name: str) -> Run:
    """Read the log of a run and what lies beside it.

    A last line that was cut off is left out: it is being written, or its writer was
    killed. Where steps do not rise, the later lines count.

    Args:
      path: a log, see `log_file`.
      name: of the run.

    Raises:
      UserError: a file cannot be read, a line is damaged or lacks a value, or the log
        has no line.
    """
    log = list(_records(path, LOG_KEYS))
    if not log:
        raise UserError(
            f"{path} has no whole line yet: draw again when the training printed some"
        )
    scores: Dict[str, List[Dict[str, Any]]] = {}
    beside = os.path.join(os.path.dirname(path), EVALUATIONS)
    if os.path.exists(beside):
        for record in _records(beside, SCORE_KEYS, "split"):
            scores.setdefault(record["split"], []).append(record)
    return Run(
        name,
        _columns(log, LOG_KEYS),
        {split: _columns(lines, SCORE_KEYS) for split, lines in scores.items()},
    )


def log_file(run: str) -> str:
    """Return the log that a run of the command line stands for.

    Raises:
      UserError: there is none.
    """
    path = os.path.join(run, LOG) if os.path.isdir(run) else run
    if not os.path.isfile(path):
        raise UserError(
            f"there is no file {path}: name a folder where a training left its {LOG}"
        )
    return path


def run_names(paths: Sequence[str]) -> List[str]:
    """Name runs by their folders, with as many parents as tell them apart.

    Args:
      paths: logs; one that is not called log.jsonl gives its own name, too.
    """
    parts = []
    for path in map(os.path.abspath, paths):
        place = os.path.dirname(path) if os.path.basename(path) == LOG else path
        parts.append(place.split(os.sep))
    names: List[str] = []
    for depth in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(map(tuple, parts))):
            break
    return names


def _records(
    path: str, numbers: Sequence[str], text: str = ""
) -> Iterator[Dict[str, Any]]:
    """Yield the objects of a file of JSON lines.

    Args:
      path: the file.
      numbers: keys whose values must be numbers, besides "step".
      text: a key whose value must be text; empty: none.
    """
    try:
        with open(path, "rb") as file:
            *lines, unfinished = file.read().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if _is_json(unfinished):  # someone's editor left out the end of the line
        lines.append(unfinished)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8"), parse_int=float)
        except (ValueError, RecursionError) as error:
            raise _damage(path, number, "no JSON") from error
        if not isinstance(record, dict):
            raise _damage(path, number, "no JSON object")
        for key in ("step", *numbers):
            if not isinstance(record.get(key), float):
                raise _damage(path, number, f"no number called {key}")
        if not math.isfinite(record["step"]):
            raise _damage(path, number, "a step that is not finite")
        if text and not isinstance(record.get(text), str):
            raise _damage(path, number, f"no text called {text}")
        yield record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def _damage(path: str, number: int, what: str) -> UserError:
    return UserError(
        f"{path}, line {number}: {what}; delete the line, or name the log of a training"
    )


def _columns(records: Sequence[Dict[str, Any]], keys: Sequence[str]) -> Columns:
    """Return "step" and `keys` -> float64 [rows], steps rising, NaN if not finite."""
    rows: List[Dict[str, Any]] = []
    for record in records:
        while rows and rows[-1]["step"] >= record["step"]:
            rows.pop()
        rows.append(record)
    columns = {}
    for key in ("step", *keys):
        values = np.array([row[key] for row in rows])
        columns[key] = np.where(np.isfinite(values), values, np.nan)
    return columns


def smoothed(values: np.ndarray, lines: int) -> np.ndarray:
    """Compute the running mean.

    Args:
      values: float64 [rows], NaN at gaps.
      lines: int, how many rows up to each one the mean is over; those that there are
        at the beginning, and gaps do not count.

    Returns:
      float64 [rows], NaN where `values` has it.
    """
    is_there = np.isfinite(values)
    window = np.ones(min(lines, len(values)))
    sums = np.convolve(np.where(is_there, values, 0), window)[: len(values)]
    counts = np.convolve(is_there, window)[: len(values)]
    return np.where(is_there, sums / np.maximum(counts, 1), np.nan)


def draw(runs: Sequence[Run], smooth: int = 1) -> "Figure":
    """Draw runs, each in its colour.

    Args:
      runs: at least one.
      smooth: int, see `smoothed`; for the noisy curves.

    Returns:
      A figure with a canvas to save it. Its axes are LOSSES, ACCURACIES, then SCORES
      if a run has some, then RATES; steps are their columns.

    Raises:
      UserError: matplotlib is missing.
    """
    has_scores = any(run.scores for run in runs)
    panels = [LOSSES, ACCURACIES, *([SCORES] if has_scores else []), *RATES]
    rows = (len(panels) + 1) // 2
    figure = new_figure(INCHES[0], INCHES[1] * rows)
    colours = _colours(len(runs))
    for panel, axes in zip(panels, _add_axes(figure, len(panels))):
        for run, colour in zip(runs, colours):
            if panel is SCORES:
                _plot_scores(axes, run, colour, _markers(runs))
            else:
                _plot(axes, run.log, panel.curves, smooth, color=colour)
        _scale(axes, panel)
        _explain(axes, panel, _markers(runs) if panel is SCORES else {})
    _name_runs(figure, [run.name for run in runs], colours, smooth)
    return figure


def _colours(number: int) -> List[Tuple[float, float, float]]:
    """Return hues as far apart as can be, the first one blue."""
    hues = [(0.58 + n / number) % 1 for n in range(number)]
    return [colorsys.hls_to_rgb(hue, 0.42, 0.8) for hue in hues]


def _markers(runs: Sequence[Run]) -> Dict[str, str]:
    """Return split -> marker."""
    splits = sorted({split for run in runs for split in run.scores})
    return {split: MARKERS[n % len(MARKERS)] for n, split in enumerate(splits)}


def _add_axes(figure: "Figure", number: int) -> List["Axes"]:
    """Add axes in two columns, the first one as wide as both if they are odd."""
    grid = figure.add_gridspec((number + 1) // 2, 2)
    cells = [grid[n // 2, n % 2] for n in range(number + number % 2)]
    if number % 2:
        cells[:2] = [grid[0, :]]
    first = figure.add_subplot(cells[0])
    return [first] + [figure.add_subplot(cell, sharex=first) for cell in cells[1:]]


def _plot(
    axes: "Axes", columns: Columns, curves: Sequence[Curve], smooth: int, **style: Any
) -> None:
    """Add lines; a value between gaps, or the only one, becomes a point."""
    for curve in curves:
        values = columns[curve.key]
        if curve.is_smoothed:
            values = smoothed(values, smooth)
        edged = np.concatenate([[np.nan], values, [np.nan]])
        is_alone = np.isnan(edged[:-2]) & np.isnan(edged[2:])
        points = {"marker": ".", "markevery": is_alone}
        axes.plot(columns["step"], values, **{**points, **curve.style, **style})


def _plot_scores(
    axes: "Axes", run: Run, colour: Tuple[float, ...], markers: Dict[str, str]
) -> None:
    for split, columns in run.scores.items():
        style = {"marker": markers[split], "markersize": 4, "markevery": 1}
        _plot(axes, columns, SCORES.curves, smooth=1, color=colour, **style)


def _scale(axes: "Axes", panel: Panel) -> None:
    """Add the title, the units and what reading values takes."""
    from matplotlib.ticker import LogLocator, NullLocator

    if panel is LOSSES:
        axes.set_yscale("log")  # single steps lie far above the rest
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    if panel is ACCURACIES:
        axes.set_ylim(0, 1)
    axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    axes.set_ylabel(panel.unit)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}")
    cell = axes.get_subplotspec()
    if cell.is_last_row() or len(cell.colspan) == 2:
        axes.set_xlabel("thousands of steps")
    else:
        axes.tick_params(labelbottom=False)
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _explain(axes: "Axes", panel: Panel, markers: Dict[str, str]) -> None:
    """Say above the axes what styles and markers mean, if there are several."""
    from matplotlib.lines import Line2D

    styles = [(curve.label, curve.style) for curve in panel.curves if curve.label]
    styles += [
        (_printable(split), {"marker": marker, "linestyle": "", "markersize": 4})
        for split, marker in markers.items()
    ]
    if styles:
        axes.legend(
            [Line2D([], [], color=INK, **style) for _, style in styles],
            [label for label, _ in styles],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncol=len(styles),
            columnspacing=1.2,
            borderaxespad=0,
            fontsize=8,
            frameon=False,
        )


def _name_runs(
    figure: "Figure",
    names: Sequence[str],
    colours: Sequence[Tuple[float, ...]],
    smooth: int,
) -> None:
    """Add the legend of the runs above all panels."""
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], color=colour, linewidth=3) for colour in colours],
        [_printable(name) for name in names],
        title=f"running mean over {smooth} lines of the log" if smooth > 1 else None,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncol=max(1, min(len(names), 100 // (4 + max(map(len, names))))),
        frameon=False,
    )


def _printable(name: str) -> str:
    """Return a name as matplotlib prints it: no formulas, nothing to be left out."""
    return ("./" if name.startswith("_") else "") + name.replace("$", r"\$")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.plot_log",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help=f"folder with {LOG}, or such a file")
    png = within(str, "name of a .png file", lambda name: name.lower().endswith(".png"))
    add("--output", type=png, metavar="FILE",
        help=f"image (default: {CURVES} in the folder of the first run)")  # fmt: skip
    add("--smooth", type=count, default=1, metavar="N",
        help="running mean over N lines of the log (default: 1); losses of single "
        "steps, learning rate and memory stay as they are")  # fmt: skip
    return parser


def plot(args: argparse.Namespace) -> int:
    """Write the image that the command line asks for, and print its path."""
    paths = [log_file(run) for run in args.runs]
    runs = [read_run(path, name) for path, name in zip(paths, run_names(paths))]
    figure = draw(runs, args.smooth)
    output = args.output or os.path.join(os.path.dirname(paths[0]), CURVES)
    with writing(output) as file:
        figure.savefig(file, format="png", dpi=DOTS, bbox_inches="tight")
    print(output)
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: plot(args))


if __name__ == "__main__":
    sys.exit(main())
