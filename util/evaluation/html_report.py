"""The report of a test as one HTML file, or two tests side by side.

All but the examples comes from the records that `-m test` writes.
"""

import os
import shlex
import sys
from typing import Any, Dict, NamedTuple, Optional, Sequence

from util.core import figures, files
from util.core.errors import UserError
from util.data import datasets
from util.evaluation import bootstrap, breakdown, charts
from util.evaluation.breakdown import COUNTS, FIGURES, TARGET_FIGURES, Row
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF
from util.evaluation.html import Column, Html, element, join, page, plot, table
from util.models import references

NONE, MINUS = "\u2013", "\u2212"
SHOWN_CHANGES = 10  # each way
NAMES = {
    "overall_iou": "overall IoU (oIoU, cIoU)",
    "mean_iou": "mean IoU (mIoU, gIoU)",
    "count": "sentences",
    "num_empty": "mask and prediction both empty",
    "no_target_accuracy": "N-acc, of the sentences without a target",
    "target_accuracy": "T-acc, of the others",
    **{name: name.replace("target_", "") + " of these" for name in TARGET_FIGURES[2:]},
}
DIFFERENCE = f"B {MINUS} A"
NO_INTERVAL = (
    f"No interval says how sure this is: it needs {bootstrap.LEAST_IMAGES} images or "
    "more, and their names."
)
PARTS = ("oIoU", "mIoU")  # overall and mean IoU


class Series(NamedTuple):
    """What has its own columns in tables and its own colour in plots.

    Attributes:
      label: names it.
      rows: of the samples of a record.
      kind: WITHOUT_CRF, WITH_CRF or BASE.
    """

    label: str
    rows: Sequence[Row]
    kind: str


# --- Commands


def require_matplotlib() -> None:
    """Refuse to begin without matplotlib.

    Raises:
      UserError: it is missing.
    """
    figures.new_figure(1, 1)


def run(args) -> None:
    """Write the report of a test.

    Where the snapshot or the samples of the test are gone the report has no examples
    and says why: training keeps the newest snapshots only.

    Args:
      args: options of `trainval_model.py -m report`.

    Raises:
      UserError: there is no record, it lists no sentences, or matplotlib is missing.
    """
    from util.graph import checkpoint  # TensorFlow loads here, not for --compare

    require_matplotlib()
    step = args.iteration
    if step is None or step in checkpoint.there(args.folder, args.dataset):
        snapshot = checkpoint.find(args.folder, args.dataset, step)
    else:  # training may have removed it
        snapshot = checkpoint.path(args.folder, args.dataset, step)
    path = f"{snapshot}.{args.split}.json"
    command = _test_command(args.dataset, args.split, args.folder, args.iteration)
    if not os.path.exists(path):
        raise UserError(f"there is no {path}; test first: {command} --report")
    record = breakdown.read_record(path)
    if "samples" not in record:
        with_crf = " -c" * (WITH_CRF in record["results"])
        raise UserError(
            f"{path} does not list its sentences; test again: {command}{with_crf} "
            "--report"
        )
    dataset = datasets.get(args.dataset, args.data, args.batches)
    where = args.folder, args.dataset, args.iteration
    how = args.precision, args.crf_backend, args.model
    shown = _examples(where, dataset, record, how)
    output = args.output or f"{snapshot}.{args.split}.html"
    _write(output, report(record, shown))


def _test_command(dataset, split, folder, iteration):
    words = ["python", "trainval_model.py", "-m", "test", "-d", dataset]
    words += ["-t", split, "-f", folder]
    words += ["-i", str(iteration)] * (iteration is not None)
    return " ".join(map(shlex.quote, words))


def _examples(where, dataset, record, how):
    """Return the examples as HTML, or why there are none."""
    from util.evaluation import examples
    from util.graph import checkpoint

    try:
        snapshot = checkpoint.find(*where)
        found = examples.find(snapshot, dataset, record, *how)
    except UserError as error:
        print(f"warning: a report without examples: {error}", file=sys.stderr)
        return element("p", f"There are none: {error}")
    return examples.show(found)


def compare(paths: Sequence[str], output: Optional[str] = None) -> None:
    """Write two tests side by side.

    Args:
      paths: two records of tests.
      output: the file to write; None: compare.html next to the first one.

    Raises:
      UserError: a record cannot be read, or matplotlib is missing.
    """
    require_matplotlib()
    records = [breakdown.read_record(path) for path in paths]
    output = output or os.path.join(os.path.dirname(paths[0]), "compare.html")
    _write(output, comparison(*records, names=paths))


def _write(path, content):
    with files.writing(path) as file:
        # A sentence may hold half a letter, as JSON can.
        file.write(content.encode("utf-8", "replace"))
    print(f"report: {path}")


# --- Pages


def report(record: Dict[str, Any], examples: Html) -> str:
    """Return the page of one test.

    Args:
      record: see `breakdown.read_record`; with samples.
      examples: see `examples.show`.
    """
    rows = record["samples"]
    series = [Series(TITLES[kind], rows, kind) for kind in _kinds(record)]
    return page(
        f"Test on {record['data_set']} {record['split']}",
        _about(record),
        element("h2", "Figures"),
        _figures(record),
        _intervals(series),
        *_plots_and_groups(series, record["data_set"]),
        element("h2", "Examples"),
        examples,
    )


def _kinds(*records):
    """Return WITHOUT_CRF and, where a record has them, WITH_CRF and BASE."""
    return [kind for kind in TITLES if any(kind in one["results"] for one in records)]


def comparison(
    one: Dict[str, Any], other: Dict[str, Any], names: Sequence[str] = ("", "")
) -> str:
    """Return the page of two tests, A and B.

    Args:
      one, other: see `breakdown.read_record`.
      names: what the user calls them.
    """
    records = {"A": one, "B": other}
    parts = [
        _about(record, f"{label}: {name}: ")
        for (label, record), name in zip(records.items(), names)
    ]
    parts += [element("h2", "Figures"), _two_figures(records)]
    if all("samples" in record for record in records.values()):
        kinds = {breakdown.last_kind(record) for record in records.values()}
        kind = WITH_CRF if kinds == {WITH_CRF} else WITHOUT_CRF
        series = [Series(n, r["samples"], kind) for n, r in records.items()]
        is_same = len({record["data_set"] for record in records.values()}) == 1
        parts += _sure_differences(records)
        parts.append(element("p", f"All that follows is of the masks {TITLES[kind]}."))
        parts += _plots_and_groups(series, one["data_set"] if is_same else "")
        parts += _changes(records, kind)
    else:
        note = "There is no more: not both records list their sentences (--report)."
        parts.append(element("p", note))
    return page("Two tests side by side", *parts)


def _about(record, label=""):
    """Say in a line what was tested with what."""
    versions = record.get("versions")
    versions = versions.items() if isinstance(versions, dict) else ()
    line = ", ".join(f"{name} {version}" for name, version in versions)
    what = f"{record['data_set']} {record['split']}, snapshot {record['snapshot']}"
    what = ", ".join([what, *breakdown.options_of(record)])
    return join(
        [element("p", label + what), element("p", line, class_="faint")],
    )


# --- Tables of all sentences


def _figures(record):
    """Show the figures of a test next to the published ones of the same."""
    kinds, published = _kinds(record), list(_published(record))
    columns = [Column("in %"), *(Column(TITLES[kind]) for kind in kinds)]
    columns += [
        Column(f"{run.name}, {TITLES[kind]}", ["published", "difference"])
        for run, kind, _ in published
    ]
    rows = []
    for name in _names(record):
        found = {kind: record["results"][kind][name] for kind in kinds}
        row = [NAMES.get(name, name), *(_figure(name, x) for x in found.values())]
        for _, kind, known in published:
            row += _beside(name, found.get(kind), known.get(name))
        rows.append(row)
    shown = [table("Figures of all sentences", columns, rows)]
    if published:
        shown.append(_of_what(record, published))
    return join(shown)


def _intervals(series):
    """Show between which values the IoU may lie."""
    rows = series[0].rows
    if not bootstrap.has_enough_images(rows):
        return element("p", NO_INTERVAL, class_="faint")
    found = [bootstrap.intervals(one.rows, one.kind) for one in series]
    columns = [Column("in %"), *(Column(one.label) for one in series)]
    cells = [
        [NAMES[name], *(_range(some[name], _percent) for some in found)]
        for name in bootstrap.NAMES
    ]
    return table(_interval_title(rows), columns, cells)


def _interval_title(rows):
    return bootstrap.title(len({row["image"] for row in rows}))


def _range(interval, form):
    return " to ".join(map(form, interval))


def _sure_differences(records):
    """Yield how sure the differences are, where both tests saw the same sentences."""
    if not _are_of_one_split(records):
        return
    try:
        before, after = breakdown.paired(*(r["samples"] for r in records.values()))
    except ValueError:  # `_changes` says it
        return
    if not bootstrap.has_enough_images(before):
        yield element("p", NO_INTERVAL, class_="faint")
        return
    kinds = [k for k in TITLES if all(k in r["results"] for r in records.values())]
    found = [bootstrap.differences(before, after, kind) for kind in kinds]
    columns = [Column("in %"), *(Column(TITLES[kind]) for kind in kinds)]
    cells = [
        [NAMES[name], *(_range(some[name], _signed) for some in found)]
        for name in bootstrap.NAMES
    ]
    yield table(f"{DIFFERENCE}: {_interval_title(before)}", columns, cells)
    open_ones = [
        f"{NAMES[name]} {TITLES[kind]}"
        for name in bootstrap.NAMES
        for kind, some in zip(kinds, found)
        if some[name][0] <= 0 <= some[name][1]
    ]
    told = "None of these intervals contains 0: other images would hardly turn a sign."
    if open_ones:
        told = f"Not decided, as 0 is in the interval: {'; '.join(open_ones)}."
    yield element("p", f"{told} Training has its own chance: {references.CHANCE}")


def _are_of_one_split(records):
    one, other = records.values()
    return all(one[key] == other[key] for key in ("data_set", "split"))


def _published(record):
    """Yield (run, kind, name -> percent) of what is published of the same."""
    where = record["data_set"], record["split"]
    for run in references.runs_of(record["model"], record["options"], *where):
        for place, kind in enumerate((WITHOUT_CRF, WITH_CRF)):
            pairs = run.scores[where].items()
            known = {name: x[place] for name, x in pairs if x[place] is not None}
            if known:
                yield run, kind, known


def _beside(name, found, published):
    """Return a published figure, with the digits that are known, and the difference."""
    if published is None:
        return [NONE, NONE]
    digits = 1 if name.startswith("precision") else 2
    difference = NONE if found is None else _signed(found - published / 100)
    return [f"{published:.{digits}f}", difference]


def _of_what(record, published):
    """Say what published figures are of, and where the test was of something else."""
    sources = {run.name: run.source for run, _, _ in published}
    notes = [f"{name}: {source}." for name, source in sources.items()]
    everything = datasets.DATASETS[record["data_set"]].splits.get(record["split"])
    tested = record["results"][WITHOUT_CRF]["count"]
    if everything and tested != everything:
        notes.append(f"They are of {everything} sentences, this test of {tested}.")
    notes.append(references.CHANCE)
    return element("p", " ".join(notes), class_="faint")


def _two_figures(records):
    kinds = _kinds(*records.values())
    columns = [Column("in %")]
    columns += [Column(TITLES[kind], [*records, DIFFERENCE]) for kind in kinds]
    rows = []
    for name in _names(*records.values()):
        row = [NAMES.get(name, name)]
        for kind in kinds:
            found = [r["results"].get(kind, {}).get(name) for r in records.values()]
            row += [NONE if value is None else _figure(name, value) for value in found]
            is_score = name not in COUNTS and None not in found
            row.append(_signed(found[1] - found[0]) if is_score else NONE)
        rows.append(row)
    return table("Figures of A and B", columns, rows)


def _names(*records):
    """Return the names of all figures that one of the records has."""
    results = [scores for one in records for scores in one["results"].values()]
    more = [name for name in TARGET_FIGURES if any(name in one for one in results)]
    return [*FIGURES, *more, *COUNTS]


def _figure(name, value):
    if value is None:
        return NONE
    return f"{value:d}" if name in COUNTS else _percent(value)


def _percent(value):
    return f"{100 * value:.2f}"


def _signed(value):
    return f"{100 * value:+.2f}".replace("-", MINUS)


# --- Plots and groups


def _plots_and_groups(series, dataset):
    """Yield the sections that need the samples."""
    scores = {one.label: breakdown.scores(one.rows, one.kind) for one in series}
    means = ", ".join(f"{_percent(s.mean_iou)} {n}" for n, s in scores.items())
    curve = "Precision: the share of sentences with at least each IoU"
    yield element("h2", "IoU of the sentences")
    yield element(
        "div",
        plot(charts.histogram(scores), f"Histogram of the IoU; means: {means}"),
        plot(
            charts.precision(scores), f"{curve}; the table of figures has five points"
        ),
        class_="pair",
    )
    for grouping in breakdown.groupings(dataset):
        yield from _group(series, grouping)


def _group(series, grouping):
    """Yield heading, plot and table of one way to divide the sentences."""
    groups = {
        one.label: breakdown.divide(one.rows, one.kind, grouping) for one in series
    }
    names = [n for n in grouping.names if any(n in some for some in groups.values())]
    heading = f"By {grouping.title}"
    yield element("h2", heading)
    if not names:
        yield element("p", f"No group has {grouping.least} sentences.")
        return
    shown = plot(
        charts.bars(groups, names),
        f"Overall IoU (oIoU) {heading.lower()}, as in the table",
    )
    yield element("div", shown, _group_table(groups, names, heading), class_="pair")
    if grouping.least > 1:
        note = (
            f"Words with at least {grouping.least} sentences; a sentence counts for "
            "each such word in it."
        )
        yield element("p", note, class_="faint")


def _group_table(groups, names, heading):
    """Show the scores of groups; how many sentences once where all have as many."""
    counts = [
        {n: scores.count for n, scores in some.items()} for some in groups.values()
    ]
    has_same = all(count == counts[0] for count in counts)
    own = () if has_same else ("sentences",)
    columns = [Column("group")] + [Column("sentences")] * has_same
    columns += [Column(label, [*own, *PARTS]) for label in groups]
    is_comparison = set(groups) == {"A", "B"}
    columns += [Column(DIFFERENCE, PARTS)] * is_comparison
    rows = []
    for name in names:
        found = [some.get(name) for some in groups.values()]
        row = [name] + [str(counts[0].get(name))] * has_same
        for scores in found:
            row += _cells(scores, bool(own))
        rows.append(row + (_differences(*found) if is_comparison else []))
    return table(f"{heading}: IoU in %", columns, rows)


def _cells(scores, has_count):
    if scores is None:
        return [NONE] * (len(PARTS) + has_count)
    ious = [_percent(scores.overall_iou), _percent(scores.mean_iou)]
    return [str(scores.count)] * has_count + ious


def _differences(before, after=None):
    if before is None or after is None:
        return [NONE] * len(PARTS)
    return [
        _signed(after.overall_iou - before.overall_iou),
        _signed(after.mean_iou - before.mean_iou),
    ]


# --- Sentences that changed


def _changes(records, kind):
    """Yield what became better and worse, where A and B are of the same split."""
    if not _are_of_one_split(records):
        return
    one, other = records.values()
    yield element("h2", "Sentences that changed")
    try:
        found = breakdown.changes(one["samples"], other["samples"], kind)
    except ValueError as error:
        yield element("p", f"They cannot be compared one by one: {error}.")
        return
    yield element(
        "p",
        f"IoU higher in B by more than {breakdown.CHANGE:g}: {len(found.better)} "
        f"sentences; lower: {len(found.worse)}; about the same: {found.same}.",
    )
    for heading, pairs in (("Better", found.better), ("Worse", found.worse)):
        if pairs:
            yield element("h3", f"{heading} in B")
            yield _change_table(heading, pairs[:SHOWN_CHANGES])


def _change_table(heading, pairs):
    columns = [Column(name) for name in ("sentence", "number", "A", "B", DIFFERENCE)]
    rows = [
        [row["sentence"], str(row["number"]), *map(_percent, ious)]
        + [_signed(ious[1] - ious[0])]
        for row, *ious in pairs
    ]
    return table(f"{heading} in B: the largest changes of the IoU", columns, rows)
