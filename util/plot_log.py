"""Draw the training curves of one or several runs into one PNG.

A run is the folder where a training left its log.jsonl, or such a file itself. Scores
are drawn where an eval.jsonl lies next to it. TensorBoard shows the same numbers.
"""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

import numpy as np

from util.core.cli import OneLineParser, command, count, within
from util.core.errors import UserError
from util.core.figures import new_figure
from util.core.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG, EVALUATIONS, CURVES = "log.jsonl", "eval.jsonl", "curves.png"
EXAMPLES = """examples:
  python -m util.plot_log ckpts/unc/cmpc_model
  python -m util.plot_log ckpts/unc/first ckpts/unc/second --output both.png --smooth 20
"""
STYLES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 3, 1, 3, 1, 3)))
WIDTH, HEIGHT, DOTS = 6, 2.9, 110  # inches of a panel; dots an inch


class Curve(NamedTuple):
    """A line in the axes `panel`; float64 [rows], NaN where there is no number."""

    panel: str
    label: str
    steps: np.ndarray
    values: np.ndarray


def read_curves(run: str, smooth: int = 1) -> List[Curve]:
    """Read the curves of a run: each number of its log, and its scores.

    Keys with the same first word share a panel. Where a log has the average of a value,
    the value itself is left out.

    Args:
      run: folder, or path of a log.
      smooth: curves of the log are running means over so many of its lines.

    Raises:
      UserError: a file is missing, cannot be read or is damaged, or the log is empty.
    """
    path = log_file(run)
    lines = _read_lines(path)
    if not lines:
        raise UserError(f"{path} has no whole line yet: draw again when it has some")
    keys = [key for key in lines[-1] if f"{key}_avg" not in lines[-1]]
    curves = [_curve(key.split("_")[0], key, lines, key, smooth) for key in keys]
    scores = os.path.join(os.path.dirname(path), EVALUATIONS)
    lines = _read_lines(scores) if os.path.exists(scores) else []
    for split in sorted({str(line.get("split")) for line in lines}):
        some = [line for line in lines if str(line.get("split")) == split]
        for key, name in (("overall_iou", "oIoU"), ("mean_iou", "mIoU")):
            curves.append(_curve("IoU", f"{split} {key} ({name})", some, key))
    return [c for c in curves if c.label != "step" and np.isfinite(c.values).any()]


def log_file(run: str) -> str:
    """Return the log that a run of the command line stands for."""
    path = os.path.join(run, LOG) if os.path.isdir(run) else run
    if not os.path.isfile(path):
        raise UserError(
            f"there is no file {path}: name a folder where a training left its {LOG}"
        )
    return path


def _read_lines(path: str) -> List[Dict[str, Any]]:
    """Return JSON lines as dicts, without a last one that is still being written."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8"), parse_int=float)
            records.append(dict(record, step=float(record["step"])))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: no JSON object with a step; delete the line, "
                "or name the log of a training"
            ) from error
    return records


def _curve(panel, label, lines, key, smooth=1):
    values = [line.get(key) for line in lines]
    values = np.array([x if isinstance(x, float) else np.nan for x in values])
    values[~np.isfinite(values)] = np.nan
    steps = np.array([line["step"] for line in lines])
    return Curve(panel, label, steps, smoothed(values, smooth))


def smoothed(values: np.ndarray, lines: int) -> np.ndarray:
    """Compute the running mean.

    Args:
      values: float64 [rows], NaN at gaps.
      lines: how many rows up to each one the mean is over; gaps do not count.

    Returns:
      float64 [rows], NaN where `values` has it.
    """
    is_there = np.isfinite(values)
    window = np.ones(min(lines, len(values)))
    sums = np.convolve(np.where(is_there, values, 0), window)[: len(values)]
    counts = np.convolve(is_there, window)[: len(values)]
    return np.where(is_there, sums / np.maximum(counts, 1), np.nan)


def draw(runs: Sequence[List[Curve]], names: Sequence[str]) -> "Figure":
    """Draw runs, each in its colour, each kind of number in axes of its own.

    Args:
      runs: at least one.
      names: of the runs, for the legend.

    Returns:
      A figure with a canvas to save it; its axes are titled by `Curve.panel`.

    Raises:
      UserError: matplotlib is missing.
    """
    titles = list(dict.fromkeys(curve.panel for run in runs for curve in run))
    rows = (len(titles) + 1) // 2
    figure = new_figure(2 * WIDTH, HEIGHT * rows)
    for number, title in enumerate(titles, 1):
        axes = figure.add_subplot(rows, 2, number)
        panels = [[curve for curve in run if curve.panel == title] for run in runs]
        labels = list(dict.fromkeys(curve.label for run in panels for curve in run))
        for number, curves in enumerate(panels):
            for curve in curves:
                style = STYLES[labels.index(curve.label) % len(STYLES)]
                # The points show a value between gaps, or the only one.
                axes.plot(curve.steps, curve.values, color=f"C{number}", marker=".",
                    markersize=2, linewidth=1.2, linestyle=style)  # fmt: skip
        _legend(axes, labels, [dict(color="0.25", linestyle=s) for s in STYLES])
        axes.set_title(title, loc="left")
        axes.set_yscale("log" if title == "loss" else "linear")  # a first loss is high
        axes.grid(color="0.9")
        axes.set_xlabel("step")
    styles = [dict(color=f"C{n}", linewidth=3) for n in range(len(runs))]
    _legend(figure, names, styles, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _legend(parent, labels, styles, **place):
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **styles[n % len(styles)]) for n in range(len(labels))]
    # matplotlib leaves out what begins with "_" and takes "$" for a formula.
    labels = [label.lstrip("_").replace("$", r"\$") for label in labels]
    parent.legend(lines, labels, ncol=3, fontsize=8, frameon=False, **place)


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
        help="running mean over N lines of the log (default: 1)")  # fmt: skip
    return parser


def plot(args: argparse.Namespace) -> int:
    """Write the image that the command line asks for, and print its path."""
    figure = draw([read_curves(run, args.smooth) for run in args.runs], args.runs)
    folder = os.path.dirname(log_file(args.runs[0]))
    output = args.output or os.path.join(folder, CURVES)
    with writing(output) as file:
        figure.savefig(file, format="png", dpi=DOTS, bbox_inches="tight")
    print(output)
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), plot, argv)


if __name__ == "__main__":
    sys.exit(main())
