"""util.inference.prediction: boxes, run lengths, and what a prediction says."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from util.inference.prediction import (
    Prediction,
    Word,
    box,
    describe,
    read_words,
    run_lengths,
)

CLASSES = ("thing", "look", "place")
MASK = np.zeros((6, 9), bool)
MASK[2:4, 3:7] = True


@pytest.mark.parametrize("at, wanted", [((5, 8), [8, 5, 1, 1]), ((0, 0), [0, 0, 1, 1])])
def test_box_of_a_pixel(at, wanted):
    mask = np.zeros((6, 9), bool)
    mask[at] = True
    assert box(mask) == wanted


def test_box_goes_around_all_and_is_none_without_a_pixel():
    assert box(MASK) == [3, 2, 4, 2]
    assert box(MASK & False) is None


def test_run_lengths_are_those_of_coco():
    packed = json.loads(json.dumps(run_lengths(MASK)))
    np.testing.assert_array_equal(coco_mask.decode(packed), MASK)


def a_prediction(on_object):
    weights = dict(zip(CLASSES, (0.1, 0.6, 0.3)))
    words = [Word("red", True, weights)]
    probability = np.where(on_object, 0.75, 0.25).astype(np.float32)
    levels = dict.fromkeys(("c5", "c4"), probability)
    return Prediction("Red.", words, 0, MASK.shape, on_object, probability, levels)


def test_a_prediction_is_described():
    said = describe(a_prediction(MASK))
    assert json.loads(json.dumps(said)) == said
    assert (said["area"], said["box"]) == (8, [3, 2, 4, 2])
    assert said["mean_probability"] == pytest.approx(0.75)
    assert (said["sentence"], said["num_unread"]) == ("Red.", 0)
    (word,) = said["words"]
    assert (word["text"], word["known"], word["class"]) == ("red", True, "look")
    assert word["weights"]["look"] == pytest.approx(0.6)


def test_an_empty_mask_has_no_box_and_no_probability():
    said = describe(a_prediction(MASK & False))
    assert (said["area"], said["box"], said["mean_probability"]) == (0, None, None)


def test_the_last_weights_belong_to_the_words_that_were_read():
    weights = np.zeros([5, 3], np.float32)
    weights[3, 1], weights[4, 2] = 1, 1
    ids = np.array([0, 0, 0, 7, 3])
    red, left = read_words("Red left man.", ids, weights, CLASSES, unknown=3)
    assert (red.text, red.kind, red.is_known) == ("red", "look", True)
    assert (left.text, left.kind, left.is_known) == ("left", "place", False)
    assert read_words("red", ids[:4], weights[:4], CLASSES)[0].is_known is None


def test_words_have_no_class_where_the_model_has_none():
    (word,) = read_words("Red.", np.array([0, 7]), None, (), unknown=3)
    assert (word.text, word.is_known, word.weights, word.kind) == (
        "red",
        True,
        {},
        None,
    )
