"""util.evaluation.eval_tools: counts, scores, and the printed block."""

import json

import numpy as np
import pytest

from util.evaluation.eval_tools import (
    BASE,
    WITH_CRF,
    WITHOUT_CRF,
    Scores,
    compute_mask_IU,
    report,
)


def scores_of(*samples):
    """Return the Scores of (intersection, union) pairs."""
    scores = Scores()
    for intersection, union in samples:
        scores.add(intersection, union)
    return scores


def test_two_squares():
    masks, target = np.zeros([6, 8]), np.zeros([6, 8], bool)
    masks[1:4, 1:4] = 0.25
    target[2:5, 2:6] = True
    assert compute_mask_IU(masks, target) == (4, 9 + 12 - 4)


def test_every_value_but_0_is_on_the_object():
    assert compute_mask_IU(np.array([-1, 0, 2]), np.array([255, 1, 0])) == (1, 3)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        compute_mask_IU(np.ones([2, 3]), np.ones([3]))


def test_known_scores():
    scores = scores_of((1, 2), (9, 10), (0, 8), (7, 10))
    assert scores.count == 4 and scores.num_empty == 0
    assert scores.overall_iou == 17 / 30
    assert scores.mean_iou == pytest.approx((0.5 + 0.9 + 0 + 0.7) / 4)
    got = [scores.precision(threshold) for threshold in Scores.THRESHOLDS]
    assert got == [0.75, 0.5, 0.5, 0.25, 0.25]


def test_both_empty_counts_as_right():
    scores = scores_of((1, 4), (0, 0))
    assert scores.num_empty == 1
    assert scores.overall_iou == 0.25
    assert scores.mean_iou == 0.625
    assert scores.precision(0.9) == 0.5


def test_only_empty_samples():
    scores = scores_of((0, 0))
    assert (scores.overall_iou, scores.mean_iou, scores.precision(0.9)) == (1, 1, 1)


def test_counts_beyond_32_bits_do_not_overflow():
    scores = scores_of(*[(np.int32(2**30), np.int32(2**31 - 1))] * 8)
    assert scores.overall_iou == pytest.approx(0.5)


@pytest.mark.parametrize(
    "ask",
    [
        lambda scores: scores.overall_iou,
        lambda scores: scores.mean_iou,
        lambda scores: scores.precision(0.5),
        lambda scores: report(scores, WITH_CRF),
    ],
)
def test_no_samples_are_refused(ask):
    with pytest.raises(ValueError, match="no sample"):
        ask(Scores())


def test_as_dict_survives_json():
    scores = scores_of((np.int64(1), np.int64(2)))
    assert json.loads(json.dumps(scores.as_dict())) == {
        "precision@0.5": 1,
        "precision@0.6": 0,
        "precision@0.7": 0,
        "precision@0.8": 0,
        "precision@0.9": 0,
        "overall_iou": 0.5,
        "mean_iou": 0.5,
        "count": 1,
        "num_empty": 0,
    }


def test_report():
    assert report(scores_of((1, 3), (4, 5)), WITHOUT_CRF).split("\n") == [
        "Segmentation evaluation (without DenseCRF):",
        "precision@0.5 = 0.5000",
        "precision@0.6 = 0.5000",
        "precision@0.7 = 0.5000",
        "precision@0.8 = 0.5000",
        "precision@0.9 = 0.0000",
        "overall IoU = 0.6250; mean IoU = 0.5667",
    ]


def test_report_of_a_base_score():
    lines = report(scores_of((1, 3)), BASE).split("\n")
    assert lines[0] == "Segmentation evaluation (base score, without DenseCRF):"
    assert lines[-1] == "overall base IoU = 0.3333; mean IoU = 0.3333"


def test_report_names_the_empty_samples():
    text = report(scores_of((1, 3), (0, 0)), WITH_CRF)
    assert text.startswith("Segmentation evaluation (with DenseCRF):\n")
    assert "1 of 2 samples had an empty mask" in text
