"""The record of a test taken apart: by sentence length, mask size, relation words."""

import os
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from util.core import files
from util.core.cli import EXACT
from util.core.errors import UserError
from util.data import text_processing
from util.evaluation.eval_tools import (
    TITLES,
    WITH_CRF,
    WITHOUT_CRF,
    Scores,
    without_titles,
)
from util.models import option_name

TEXTS = ("sentence", "image")
NUMBERS = ("number", "words", "height", "width", "area")
FIGURES = ("overall_iou", "mean_iou") + tuple(
    f"precision@{threshold}" for threshold in Scores.THRESHOLDS
)
COUNTS = ("count", "num_empty")
# Of records with sentences that have no target; None where no sentence is of the kind.
TARGET_FIGURES = ("no_target_accuracy", "target_accuracy") + tuple(
    f"target_precision@{threshold}" for threshold in Scores.TARGET_THRESHOLDS
)

LENGTHS = ((1, 2), (3, 3), (4, 5), (6, 7), (8, 20))  # words, both ends included
# As in the tables of RRN (CVPR 2018), BRINet (CVPR 2020) and CMPC (CVPR 2020).
PUBLISHED_LENGTHS = {
    "Gref": ((1, 5), (6, 7), (8, 10), (11, 20)),
    "unc": ((1, 2), (3, 3), (4, 5), (6, 20)),
    "unc+": ((1, 2), (3, 3), (4, 5), (6, 20)),
    "referit": ((1, 1), (2, 2), (3, 4), (5, 20)),
}
SHARES = (1, 3, 10, 30)  # per cent of the image, where mask sizes are divided
RELATION_WORDS = (
    "left right top bottom upper lower middle center centre corner side edge "
    "front behind back background foreground far near next beside by close closest "
    "between among above below over under underneath on in inside at against around "
    "facing toward towards away with without holding wearing "
    "first second third last end"
).split()
NO_RELATION = "none of them"
LEAST = 10  # sentences that a relation word needs for a row
CHANGE = 0.05  # of the IoU: less counts as the same

SEED = 0  # of the cases that chance chooses

Row = Dict[str, Any]  # of one sentence, see `evaluate.Results.samples`


class Grouping(NamedTuple):
    """A way to divide sentences.

    Attributes:
      title: of what.
      names: of the groups, in order.
      of: row -> the names of those that it belongs to.
      least: groups with fewer sentences are not worth a row.
    """

    title: str
    names: Sequence[str]
    of: Callable[[Row], List[str]]
    least: int = 1


class Changes(NamedTuple):
    """What differs between a first and a second test.

    Attributes:
      better, worse: (row, IoU before, IoU after), the largest changes first.
      same: how many sentences changed by no more than CHANGE.
    """

    better: List[Tuple[Row, float, float]]
    worse: List[Tuple[Row, float, float]]
    same: int


# --- Reading


def read_record(path: str) -> Dict[str, Any]:
    """Read what `evaluate.write_record` wrote.

    Args:
      path: the JSON file of a test.

    Returns:
      The record, with WITHOUT_CRF, WITH_CRF and BASE in place of their titles. It has
      "samples" only where each row has all that `evaluate.Results.samples` says;
      records of older versions lack the sentences.

    Raises:
      UserError: the file is missing, or not a record of a test.
    """
    if not os.path.isfile(path):
        raise UserError(f"cannot read {path}: there is no such file")
    record = files.read_json(path)
    try:
        record["results"] = without_titles(record["results"])
        _check(record)
        rows = record.pop("samples", None)
        if rows:
            rows = [_renamed(row) for row in rows]
            if set(TEXTS + NUMBERS) <= set(rows[0]):
                _check_rows(rows, record["results"])
                record["samples"] = rows
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a record of a test ({error!r})") from error
    return record


def _renamed(row):
    if "picture" in row:  # as older versions call it
        row["image"] = row.pop("picture")
    return without_titles(row)


def _check(record):
    record.setdefault("model", "CMPC_model")  # older versions had no other
    record.setdefault("options", {})
    _require(isinstance(record["options"], dict), "options")
    _require(_is_count(record.get("empty_below", 0)), "empty_below")
    _require(isinstance(record.get("precision", EXACT), str), "precision")
    for key in ("data_set", "split", "snapshot", "model"):
        _require(isinstance(record[key], str), key)
    results = record["results"]
    _require({WITHOUT_CRF} <= set(results) <= set(TITLES), "results")
    for scores in results.values():
        for name in FIGURES:
            _require(type(scores[name]) in (int, float), name)
            _require(0 <= scores[name] <= 1, name)
        for name in COUNTS:
            _require(_is_count(scores[name]), name)
        for name in set(TARGET_FIGURES) & set(scores):
            value = 0 if scores[name] is None else scores[name]
            _require(type(value) in (int, float) and 0 <= value <= 1, name)


def _check_rows(rows, kinds):
    for row in rows:
        for key in TEXTS:
            _require(isinstance(row[key], str), key)
        for key in NUMBERS:
            _require(_is_count(row[key]), key)
        _require(row["area"] <= row["height"] * row["width"] > 0, "area")
        for kind in kinds:
            overlap, union = row[kind]["intersection"], row[kind]["union"]
            is_right = _is_count(overlap) and _is_count(union) and overlap <= union
            _require(is_right, TITLES[kind])


def _is_count(value):
    return type(value) is int and value >= 0


def _require(is_right, key):
    if not is_right:
        raise ValueError(f"{key} is not as a test writes it")


def options_of(record: Dict[str, Any]) -> List[str]:
    """Return the options that a record's figures depend on, as they are given.

    Example:
      >>> options_of({"options": {"refine": "score"}, "empty_below": 50})
      ['--empty-below 50', '--refine score']
      >>> options_of({"options": {}, "precision": "bfloat16"})
      ['--precision bfloat16']
    """
    options = dict(record["options"])
    if record.get("empty_below"):
        options["empty_below"] = record["empty_below"]
    if record.get("precision", EXACT) != EXACT:
        options["precision"] = record["precision"]
    return [f"{option_name(name)} {value}" for name, value in sorted(options.items())]


def last_kind(record: Dict[str, Any]) -> str:
    """Return WITH_CRF where there are refined masks, else WITHOUT_CRF."""
    return WITH_CRF if WITH_CRF in record["results"] else WITHOUT_CRF


# --- Dividing


def groupings(dataset: str) -> List[Grouping]:
    """Return the ways in which the sentences of a data set are divided."""
    published = PUBLISHED_LENGTHS.get(dataset)
    ways = [_by_length("length of the sentence", LENGTHS)]
    if published:
        title = "length of the sentence, grouped as in the papers"
        ways.append(_by_length(title, published))
    names = [f"under {SHARES[0]} %"]
    names += [f"{low} to {high} %" for low, high in zip(SHARES, SHARES[1:])]
    names += [f"{SHARES[-1]} % or more", "no target"]
    ways.append(
        Grouping(
            "size of the object, as a share of the image",
            names,
            lambda row: [
                names[np.digitize(_share(row), SHARES) if row["area"] else -1]
            ],
        )
    )
    words = RELATION_WORDS + [NO_RELATION]
    ways.append(Grouping("relation words in the sentence", words, _relations, LEAST))
    return ways


def _by_length(title, ranges):
    def name(low, high):
        number = str(low) if low == high else f"{low} to {high}"
        return number + (" word" if high == 1 else " words")

    def of(row):
        return [name(*ends) for ends in ranges if ends[0] <= row["words"] <= ends[1]]

    return Grouping(title, [name(*ends) for ends in ranges], of)


def _share(row):
    """Return the share of the image, in per cent, that the object covers."""
    return 100 * row["area"] / (row["height"] * row["width"])


def _relations(row):
    # As a reader sees them, whichever letters the network reads.
    said = set(text_processing.tokenize(row["sentence"], text_processing.UNICODE))
    return [word for word in RELATION_WORDS if word in said] or [NO_RELATION]


def divide(rows: Sequence[Row], kind: str, grouping: Grouping) -> Dict[str, Scores]:
    """Compute the scores of each group.

    Args:
      rows: of a record's samples.
      kind: WITHOUT_CRF, WITH_CRF or BASE.
      grouping: see `groupings`.

    Returns:
      Name of the group -> Scores, for those with at least `grouping.least` sentences,
      in the order of `grouping.names`.
    """
    groups = {name: Scores() for name in grouping.names}
    for row in rows:
        for name in grouping.of(row):
            counts = row[kind]["intersection"], row[kind]["union"]
            groups[name].add(*counts, row["area"])
    return {
        name: scores
        for name, scores in groups.items()
        if scores.count >= grouping.least
    }


def scores(rows: Sequence[Row], kind: str) -> Scores:
    """Return the scores of all rows."""
    everything = Grouping("", [""], lambda row: [""])
    return divide(rows, kind, everything)[""]


# --- Choosing and comparing


def choose(rows: Sequence[Row], kind: str, number: int) -> Dict[str, List[Row]]:
    """Choose sentences to show, always the same ones; each at most once.

    Args:
      rows: of a record's samples.
      kind: WITHOUT_CRF or WITH_CRF, whose IoU says what is good.
      number: of the best, of the worst, and of the others.

    Returns:
      "best", "worst" and "random" -> rows; of equal ones chance decides.
    """
    order = np.random.RandomState(SEED).permutation(len(rows))
    ious = scores(rows, kind).ious()
    ranked = sorted(order, key=lambda place: -ious[place])
    best = ranked[:number]
    worst = ranked[number:][::-1][:number]
    rest = [place for place in order if place not in best + worst][:number]
    chosen = {"best": best, "worst": worst, "random": rest}
    return {name: [rows[place] for place in places] for name, places in chosen.items()}


def paired(before: Sequence[Row], after: Sequence[Row]) -> List[List[Row]]:
    """Return the rows of two tests by number, the same sentence at the same place.

    Args:
      before, after: samples of two records of the same split.

    Raises:
      ValueError: they are not about the same sentences and objects.
    """
    tests = ({row["number"]: row for row in rows} for rows in (before, after))
    before, after = ([rows[number] for number in sorted(rows)] for rows in tests)

    def differ(*keys):
        return any(a[key] != b[key] for a, b in zip(before, after) for key in keys)

    if len(before) != len(after) or differ("number", "sentence"):
        raise ValueError("the two tests are about different sentences")
    if differ("area"):
        raise ValueError("the true masks of the two tests differ")
    return [before, after]


def changes(before: Sequence[Row], after: Sequence[Row], kind: str) -> Changes:
    """Compare two tests sentence by sentence.

    Args:
      before, after: samples of two records of the same split.
      kind: WITHOUT_CRF or WITH_CRF, which both have.

    Raises:
      ValueError: see `paired`.
    """
    before, after = paired(before, after)
    ious = (scores(rows, kind).ious() for rows in (before, after))
    pairs = [(row, *map(float, both)) for row, *both in zip(before, *ious)]
    pairs.sort(key=lambda pair: -abs(pair[2] - pair[1]))
    # Rounded: 0.55 is not more than 0.05 above 0.5.
    better = [pair for pair in pairs if round(pair[2] - pair[1], 9) > CHANGE]
    worse = [pair for pair in pairs if round(pair[1] - pair[2], 9) > CHANGE]
    return Changes(better, worse, len(pairs) - len(better) - len(worse))
