"""util.evaluation.breakdown: known scores, choices, changes, any record."""

import json

import pytest

from util.core.errors import UserError
from util.evaluation import breakdown
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF, with_titles


def row(number=0, sentence="the man", words=2, area=50, iou=(1, 2), **more):
    """Return a row of a record; its image has 1000 pixels."""
    counts = dict(zip(("intersection", "union"), iou))
    return dict(
        {"number": number, "sentence": sentence, "words": words, "image": "a.jpg"},
        height=20,
        width=50,
        area=area,
        **{WITHOUT_CRF: counts},
        **more,
    )


def record(rows=None, kinds=(WITHOUT_CRF,), **changes):
    scores = dict.fromkeys(breakdown.FIGURES, 0.5)
    scores.update(dict.fromkeys(breakdown.COUNTS, 3))
    results = {kind: scores for kind in kinds}
    found = {"data_set": "unc", "split": "val", "snapshot": "s", "results": results}
    found.update(model="CMPC_model", options={})
    if rows is not None:
        found["samples"] = rows
    return dict(found, **changes)


def as_written(found):
    """Return a record as a test writes it, with titles."""
    found = dict(found, results=with_titles(found["results"]))
    if isinstance(found.get("samples"), list):
        found["samples"] = [
            with_titles(row) if isinstance(row, dict) else row
            for row in found["samples"]
        ]
    return found


def group(title, rows, dataset="unc"):
    (grouping,) = [g for g in breakdown.groupings(dataset) if g.title == title]
    scores = breakdown.divide(rows, WITHOUT_CRF, grouping)
    return {
        name: (one.count, one.overall_iou, one.mean_iou) for name, one in scores.items()
    }


# --- Groups


def test_groups_have_count_overall_and_mean_iou():
    rows = [
        row(words=1, iou=(1, 1)),
        row(words=2, iou=(0, 9)),
        row(words=3, iou=(1, 4)),
    ]
    assert group("length of the sentence", rows) == {
        "1 to 2 words": (2, 0.1, 0.5),
        "3 words": (1, 0.25, 0.25),
    }


@pytest.mark.parametrize(
    "words, name",
    [(1, "1 to 2"), (2, "1 to 2"), (3, "3"), (4, "4 to 5"), (5, "4 to 5"),
     (6, "6 to 7"), (7, "6 to 7"), (8, "8 to 20"), (20, "8 to 20")],
)  # fmt: skip
def test_every_length_has_its_group(words, name):
    found = group("length of the sentence", [row(words=words)])
    assert list(found) == [name + " words"]


@pytest.mark.parametrize(
    "dataset, names",
    [
        ("Gref", ["1 to 5 words", "6 to 7 words", "8 to 10 words", "11 to 20 words"]),
        ("unc+", ["1 to 2 words", "3 words", "4 to 5 words", "6 to 20 words"]),
        ("referit", ["1 word", "2 words", "3 to 4 words", "5 to 20 words"]),
    ],
)
def test_groups_of_the_papers(dataset, names):
    rows = [row(words=words) for words in range(1, 21)]
    title = "length of the sentence, grouped as in the papers"
    found = group(title, rows, dataset)
    assert list(found) == names
    assert sum(count for count, _, _ in found.values()) == 20
    assert title not in [grouping.title for grouping in breakdown.groupings("shapes")]


@pytest.mark.parametrize(
    "area, name",
    [(0, "no target"), (9, "under 1 %"), (10, "1 to 3 %"), (30, "3 to 10 %"),
     (299, "10 to 30 %"), (300, "30 % or more"), (1000, "30 % or more")],
)  # fmt: skip
def test_mask_size_is_a_share_of_the_image(area, name):
    found = group("size of the object, as a share of the image", [row(area=area)])
    assert list(found) == [name]


def test_relation_words_are_whole_words_of_every_alphabet():
    rows = [row(sentence="l'éon", iou=(1, 2))] * 10  # no "on"
    assert list(group("relation words in the sentence", rows)) == ["none of them"]


def test_relation_words_are_whole_words_and_need_enough_sentences():
    rows = [row(sentence="Man on the LEFT, left of it", iou=(1, 2))] * 10
    rows += [row(sentence="uprights by the kitchen", iou=(1, 4))] * 9  # "by" 9 times
    rows += [row(sentence="the brighton man", iou=(3, 4))] * 10  # none: "right"
    found = group("relation words in the sentence", rows)
    assert found == {
        "left": (10, 0.5, 0.5),
        "on": (10, 0.5, 0.5),
        "none of them": (10, 0.75, 0.75),
    }


# --- Choosing


def test_best_worst_and_random_are_different_sentences_and_always_the_same():
    rows = [row(number, iou=(number, 30)) for number in range(30)]
    chosen = breakdown.choose(rows, WITHOUT_CRF, 4)
    numbers = {kind: [r["number"] for r in some] for kind, some in chosen.items()}
    assert numbers["best"] == [29, 28, 27, 26]
    assert numbers["worst"] == [0, 1, 2, 3]
    assert len(set(sum(numbers.values(), []))) == 12
    assert numbers["random"] != sorted(numbers["random"])
    assert breakdown.choose(rows, WITHOUT_CRF, 4) == chosen


def test_few_sentences_are_not_shown_twice():
    rows = [row(number, iou=(number, 30)) for number in range(6)]
    chosen = breakdown.choose(rows, WITHOUT_CRF, 4)
    numbers = [[r["number"] for r in some] for some in chosen.values()]
    assert numbers == [[5, 4, 3, 2], [0, 1], []]


# --- Changes


def test_changes_are_sorted_by_size_and_small_ones_left_out():
    ious = [(50, 50), (50, 56), (50, 20), (50, 54), (50, 90), (50, 44)]
    before, after = (
        [row(n, f"s {n}", iou=(pair[side], 100)) for n, pair in enumerate(ious)]
        for side in (0, 1)
    )
    found = breakdown.changes(before, after[::-1], WITHOUT_CRF)
    assert [(r["number"], a, b) for r, a, b in found.better] == [
        (4, 0.5, 0.9),
        (1, 0.5, 0.56),
    ]
    assert [(r["number"], a, b) for r, a, b in found.worse] == [
        (2, 0.5, 0.2),
        (5, 0.5, 0.44),
    ]
    assert found.same == 2


@pytest.mark.parametrize("other", [[], [row(1, "the man")], [row(0, "the woman")]])
def test_other_sentences_cannot_be_compared(other):
    with pytest.raises(ValueError, match="different sentences"):
        breakdown.changes([row(0, "the man")], other, WITHOUT_CRF)


# --- Records


def read(tmp_path, content):
    path = tmp_path / "r.json"
    if isinstance(content, dict):
        content = json.dumps(as_written(content))
    path.write_text(content)
    return breakdown.read_record(str(path))


def test_a_record_is_read_with_its_samples(tmp_path):
    both = {WITH_CRF: {"intersection": 1, "union": 1}}
    wanted = record([row(**both)], kinds=(WITHOUT_CRF, WITH_CRF))
    assert read(tmp_path, wanted) == wanted
    assert breakdown.last_kind(wanted) == WITH_CRF


@pytest.mark.parametrize(
    "rows", [None, [], [{"number": 0, WITHOUT_CRF: {"intersection": 1, "union": 2}}]]
)
def test_records_of_older_versions_have_no_samples(tmp_path, rows):
    assert read(tmp_path, record(rows)) == record()


BAD_ROWS = [
    row(sentence=7), row(number=-1), row(words=True), row(area=1001), row(area=2.5),
    row(iou=(3, 2)), row(iou=(1, None)), {**row(), WITHOUT_CRF: 5}, 7,
    {**row(), "height": 0, "area": 0},
]  # fmt: skip
WRITTEN = json.dumps(as_written(record()))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "7", '"text"', "\u00e9{",
     record(split=None), record(results={}), record(results={WITHOUT_CRF: {}}),
     record(kinds=[WITH_CRF]), record(kinds=["x", WITHOUT_CRF]),
     *(record([row(), bad]) for bad in BAD_ROWS),
     record(samples=7), record(samples={"a": 1}),
     WRITTEN.replace(" 3", " 3.5"), WRITTEN.replace("0.5", "NaN"),
     WRITTEN.replace("0.5", "1e999")],
)  # fmt: skip
def test_what_is_no_record_is_told(tmp_path, content):
    with pytest.raises(UserError, match="r.json is (not a record of a test|damaged)"):
        read(tmp_path, content)


def test_a_row_without_the_refined_mask_is_told(tmp_path):
    with pytest.raises(UserError, match="not a record"):
        read(tmp_path, record([row()], kinds=TITLES))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read .*r.json: there is no such file"):
        breakdown.read_record(str(tmp_path / "r.json"))


def test_a_record_of_before_there_was_another_model_is_of_cmpc(tmp_path):
    found = {key: value for key, value in record().items() if key != "model"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(as_written(found)))
    assert breakdown.read_record(str(path))["model"] == "CMPC_model"
