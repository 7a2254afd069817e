"""The figures of several tests as one table in Markdown or LaTeX: a row a model."""

import re
import sys
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from util.core.errors import UserError
from util.data import datasets
from util.evaluation import breakdown
from util.evaluation.eval_tools import TITLES, WITHOUT_CRF, Scores

Record = Dict[str, Any]  # as `breakdown.read_record` gives it
Named = Tuple[str, Record]  # with its path

HEADS = ("model", "snapshot", "masks")
# Figure of a record -> heading.
COLUMNS = {"overall_iou": "oIoU", "mean_iou": "mIoU"}
COLUMNS.update((f"precision@{x}", f"P@{x}") for x in Scores.THRESHOLDS)
NO_TARGET_COLUMNS = {  # where sentences have no target
    "mean_iou": "gIoU",
    "overall_iou": "cIoU",
    "no_target_accuracy": "N-acc",
    "target_accuracy": "T-acc",
}
NO_TARGET_COLUMNS.update(
    (f"target_precision@{x}", f"P@{x}") for x in Scores.TARGET_THRESHOLDS
)
TERMS = (
    "in per cent; oIoU (cIoU): overall IoU, all intersections over all unions; "
    "mIoU (gIoU): mean IoU of the sentences; P@x: share of the sentences with an IoU "
    "of at least x"
)
NO_TARGET_TERMS = (
    "P@x beside N-acc: of the sentences with a target; N-acc, T-acc: share of the "
    "sentences without and with a target where that was seen"
)


class Line(NamedTuple):
    """A row of the table.

    Attributes:
      heads: what stands under HEADS.
      results: split -> name of a figure -> its value, 0..1, see `Scores.as_dict`.
    """

    heads: Sequence[str]
    results: Dict[str, Dict[str, Any]]


class Table(NamedTuple):
    """A table before it is written.

    Attributes:
      columns: split -> figure -> heading, both in order.
      lines: of the models.
      notes: what a reader must know.
    """

    columns: Dict[str, Dict[str, str]]
    lines: List[Line]
    notes: List[str]


def run(paths: Sequence[str], is_latex: bool = False) -> None:
    """Print the table of some tests.

    Args:
      paths: records of tests of one data set.
      is_latex: LaTeX instead of Markdown.

    Raises:
      UserError: a record cannot be read, or they make no table, see `build`.
    """
    table = build([(path, breakdown.read_record(path)) for path in paths])
    text = latex(table) if is_latex else markdown(table)
    encoding = sys.stdout.encoding or "utf-8"  # a terminal may not have all letters
    print(text.encode(encoding, "replace").decode(encoding))


def build(records: Sequence[Named]) -> Table:
    """Gather the records of each model in a row for each kind of its masks.

    Args:
      records: path and record of each test, see `breakdown.read_record`.

    Raises:
      UserError: the records are of several data sets, two are of one split of the same
        model, the sentences of a split differ in number, or a snapshot was replaced
        between two tests.
    """
    _require_comparable(records)
    weights = _weights(records)
    models, tested = {}, {}
    for path, record in records:
        snapshot, split = record["snapshot"], record["split"]
        name = " ".join([record["model"], *breakdown.options_of(record)])
        model = name, weights.get(snapshot, snapshot)
        if (model, split) in tested:
            raise UserError(
                f"{tested[model, split]} and {path} are both of {name}, {snapshot}, on "
                f"{split}: leave one of them out"
            )
        tested[model, split] = path
        _, results = models.setdefault(model, (snapshot, {}))
        for kind, scores in record["results"].items():
            results.setdefault(kind, {})[split] = scores
    lines = [
        Line((name, snapshot, TITLES[kind]), results[kind])
        for (name, _), (snapshot, results) in models.items()
        for kind in TITLES
        if kind in results
    ]
    columns = {
        split: _columns([line.results.get(split, {}) for line in lines])
        for split in _splits(records)
    }
    return Table(columns, lines, _notes(records, columns))


def _require_comparable(records):
    """Refuse records whose figures must not stand in one table."""
    counts = {}
    path, first = records[0]
    for other, record in records:
        split, count = record["split"], record["results"][WITHOUT_CRF]["count"]
        if record["data_set"] != first["data_set"]:
            raise UserError(
                f"{path} is of {first['data_set']}, {other} of {record['data_set']}: "
                "make a table for each data set"
            )
        known, known_count = counts.setdefault(split, (other, count))
        if count != known_count:
            raise UserError(
                f"{known} is of {known_count} sentences of {split}, {other} of "
                f"{count}: such figures do not compare"
            )


def _weights(records):
    """Return snapshot -> fingerprint, for those that a record has one of."""
    found = {}
    for path, record in records:
        mark = record.get("weights")
        if isinstance(mark, str):
            other, known = found.setdefault(record["snapshot"], (path, mark))
            if mark != known:
                raise UserError(
                    f"{other} and {path} are of other weights, though both of "
                    f"{record['snapshot']}: it was replaced between the tests; test "
                    "again"
                )
    return {snapshot: mark for snapshot, (_, mark) in found.items()}


def _splits(records):
    """Return the splits, in the order of the data set where that is known."""
    there = dict.fromkeys(record["split"] for _, record in records)
    usual = list(_published_counts(records))
    return sorted(there, key=lambda s: usual.index(s) if s in usual else len(usual))


def _published_counts(records):
    """Return split -> number of its sentences, of a data set that is built in."""
    name = records[0][1]["data_set"]
    return datasets.DATASETS[name].splits if name in datasets.DATASETS else {}


def _columns(results):
    has_no_target = any("no_target_accuracy" in scores for scores in results)
    return NO_TARGET_COLUMNS if has_no_target else COLUMNS


def _notes(records, columns):
    notes = [f"{records[0][1]['data_set']}, {TERMS}"]
    if NO_TARGET_COLUMNS in columns.values():
        notes.append(NO_TARGET_TERMS)
    published = _published_counts(records)
    for path, record in records:
        count = record["results"][WITHOUT_CRF]["count"]
        whole = published.get(record["split"])
        if whole not in (None, count):
            notes.append(f"{path}: {count} of the {whole} sentences of this split")
    return notes


# --- Writing


def _cells(table, unknown):
    """Return the figures of each line as texts."""
    return [
        [
            _percent(line.results.get(split, {}).get(name), unknown)
            for split, names in table.columns.items()
            for name in names
        ]
        for line in table.lines
    ]


def _percent(value, unknown):
    return unknown if value is None else f"{100 * value:.2f}"


def markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown, and its notes under it."""
    heads = [
        f"{split} {name}"
        for split, names in table.columns.items()
        for name in names.values()
    ]
    rows = [[*map(in_markdown, (*HEADS, *heads))]]
    rows.append(["---"] * len(HEADS) + ["---:"] * len(heads))
    for line, cells in zip(table.lines, _cells(table, "\u2013")):
        rows.append([*map(in_markdown, line.heads), *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    for note in table.notes:
        lines += ["", f"{in_markdown(note)}."]
    return "\n".join(lines)


def latex(table: Table) -> str:
    """Write a table as a `tabular`, after its notes as comments."""
    lines = [f"% {_on_one_line(note)}." for note in table.notes]
    widths = [len(names) for names in table.columns.values()]
    groups = [
        f"\\multicolumn{{{width}}}{{c}}{{{in_latex(split)}}}"
        for split, width in zip(table.columns, widths)
    ]
    heads = [name for names in table.columns.values() for name in names.values()]
    rows = [[""] * len(HEADS) + groups, [*HEADS, *heads]]
    for line, cells in zip(table.lines, _cells(table, "--")):
        rows.append([*map(in_latex, line.heads), *cells])
    rows = [f"{' & '.join(row)} \\\\" for row in rows]
    letters = "l" * len(HEADS) + "".join(" " + "r" * width for width in widths)
    lines.append(f"\\begin{{tabular}}{{{letters}}}")
    lines += ["\\hline", *rows[:2], "\\hline", *rows[2:], "\\hline", "\\end{tabular}"]
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    """Escape a text for a cell, so that it is shown as it is.

    Example:
      >>> print(in_markdown("CMPC_model a|b <i>"))
      CMPC_model a\\|b \\<i\\>
    """
    marks = r"[\\`*~|<>\[\]&$]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(marks, r"\\\g<0>", _on_one_line(text))


LATEX = {letter: f"\\{letter}" for letter in "#$%&_{}"}
LATEX.update(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def in_latex(text: str) -> str:
    """Escape a text for LaTeX; two hyphens stay two.

    Example:
      >>> print(in_latex("CMPC_model --refine score"))
      CMPC\\_model -{}-refine score
    """
    escaped = "".join(LATEX.get(letter, letter) for letter in _on_one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)


def _on_one_line(text):
    """Return a text without letters that end a line or cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
