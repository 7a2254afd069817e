"""Figures of gRefCOCO, against a second reader written from their definitions."""

import json

import numpy as np
import pytest

from util.evaluation import breakdown, evaluate, html_report
from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF, Scores, report


def draw(seed, count=60, side=9):
    """Return (predicted, true) masks, of which some are empty and some alike."""
    random = np.random.RandomState(seed)
    pairs = []
    for _ in range(count):
        predicted, true = random.uniform(size=(2, side, side)) < random.choice(
            [0, 0.02, 0.5], (2, 1, 1)
        )
        if random.uniform() < 0.3:
            predicted = true ^ (random.uniform(size=true.shape) < 0.02)
        pairs.append((predicted, true))
    return pairs


def by_definition(pairs, below):
    """Return the figures of gRefCOCO, sentence by sentence.

    gIoU is the mean of the IoU, 1 where nothing is meant and nothing found, 0 where
    something is found; cIoU all intersections over all unions; N-acc and T-acc say how
    often "nothing" and "something" are right; precision is that of sentences with a
    target.
    """
    ious, of_targets, nothing, something = [], [], [], []
    intersections = unions = 0
    for predicted, true in pairs:
        found = {tuple(place) for place in np.argwhere(predicted)}
        meant = {tuple(place) for place in np.argwhere(true)}
        if len(found) < below:
            found = set()
        intersections += len(found & meant)
        unions += len(found | meant)
        if not meant:
            nothing.append(not found)
            ious.append(0.0 if found else 1.0)
            continue
        something.append(bool(found))
        of_targets.append(len(found & meant) / len(found | meant))
        ious.append(of_targets[-1])
    figures = {
        "gIoU": np.mean(ious),
        "cIoU": intersections / unions,
        "N-acc": np.mean(nothing),
        "T-acc": np.mean(something),
    }
    for threshold in (0.7, 0.8, 0.9):
        right = [iou >= threshold for iou in of_targets]
        figures[f"precision@{threshold}"] = np.mean(right)
    return figures


def results_of(pairs, below):
    results = evaluate.Results(below)
    for number, (predicted, true) in enumerate(pairs):
        sample = {
            "mask_batch": true,
            "sent_batch": ["a box"],
            "text_batch": np.array([0, 1, 2]),
            "im_name_batch": ["a"],
        }
        masks = {WITHOUT_CRF: predicted, WITH_CRF: np.zeros_like(true)}
        result = evaluate.Result(number, sample, masks)
        results.add(evaluate.as_counted(result, below))
    return results


def printed(block):
    """Return the figures of a block by name."""
    parts = block.replace("; ", "\n").splitlines()
    return {
        name: float(value)
        for part in parts
        if " = " in part
        for name, value in [part.split(" = ")[:: len(part.split(" = ")) - 1]]
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("below", [0, 1, 3, 30])
def test_printed_figures_are_those_of_the_definitions(seed, below):
    pairs = draw(seed)
    block = results_of(pairs, below).report(no_target=True)
    without, with_crf = block.split("Segmentation evaluation (with DenseCRF):")
    expected = by_definition(pairs, below)
    assert printed(without) == pytest.approx(expected, abs=5.1e-5)
    nothing = [(np.zeros_like(true), true) for _, true in pairs]
    assert printed(with_crf) == pytest.approx(by_definition(nothing, below), abs=5.1e-5)
    assert (
        f"(--empty-below {below})" in without and "sentences have no target" in without
    )


def test_figures_stand_in_the_json_too():
    pairs = draw(7)
    found = json.loads(json.dumps(results_of(pairs, 3).scores[WITHOUT_CRF].as_dict()))
    expected = by_definition(pairs, 3)
    names = {
        "mean_iou": "gIoU",
        "overall_iou": "cIoU",
        "no_target_accuracy": "N-acc",
        "target_accuracy": "T-acc",
        "target_precision@0.7": "precision@0.7",
        "target_precision@0.8": "precision@0.8",
        "target_precision@0.9": "precision@0.9",
    }
    for name, title in names.items():
        assert found[name] == pytest.approx(expected[title]), name
    assert found["num_no_target"] == sum(not true.any() for _, true in pairs)


def test_published_block_elsewhere():
    pairs = draw(8)
    results = results_of(pairs, 0)
    # Data sets whose sentences all mean something keep theirs, whatever their masks.
    assert "overall IoU" in results.report() and "N-acc" not in results.report()
    targets = [pair for pair in pairs if pair[1].any()]
    results = results_of(targets, 0)
    assert results.report(no_target=True) == results.report()
    assert "num_no_target" not in results.scores[WITHOUT_CRF].as_dict()


def test_pixels_below_are_printed_beside_the_published_figures_too():
    scores = Scores()
    scores.add(1, 2, 2)
    assert report(scores, WITH_CRF, 5).endswith(
        "\nmasks of fewer than 5 pixels counted as empty ones"
    )


def test_only_sentences_without_a_target():
    empty = np.zeros((2, 2), bool)
    block = results_of([(empty, empty), (~empty, empty)], 0).report(no_target=True)
    assert "N-acc = 0.5000; T-acc = none" in block
    assert "precision@0.7 = none" in block


def test_report_of_a_test_has_the_figures_and_a_group_without_a_target(tmp_path):
    results = results_of(draw(9), 3)
    record = evaluate.write_record(
        str(tmp_path / "gref_iter_1.tfmodel"),
        "gref",
        "val",
        results,
        per_sample=True,
        model="CMPC_model",
        options={},
        empty_below=3,
    )
    record = breakdown.read_record(record)
    assert record["empty_below"] == 3
    page = html_report.report(record, "")
    assert "--empty-below 3</p>" in page
    expected = by_definition(draw(9), 3)
    for name in ("N-acc", "T-acc"):
        assert name in page and f"{100 * expected[name]:.2f}" in page
    assert "precision@0.7 of these" in page
    ways = {way.title: way for way in breakdown.groupings("gref")}
    sizes = ways["size of the object, as a share of the image"]
    groups = breakdown.divide(record["samples"], WITHOUT_CRF, sizes)
    nothing = [not true.any() for _, true in draw(9)]
    assert (
        groups["no target"].count == groups["no target"].num_no_target == sum(nothing)
    )
