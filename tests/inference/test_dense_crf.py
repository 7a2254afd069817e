"""util.inference.dense_crf: the published refinement."""

import sys
from pathlib import Path

import numpy as np
import pytest
import recipe

from util.core.errors import UserError
from util.inference import dense_crf

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "dense_crf.npz"


@pytest.mark.parametrize("seed", [41, 42])
def test_agrees_with_the_reference(seed):
    with np.load(str(GOLDEN)) as golden:
        probability = golden[f"s{seed}_sigm"].astype(np.float32)
        packed = golden[f"s{seed}_label"]
    expected = np.unpackbits(packed).reshape(320, 320).astype(bool)
    got = dense_crf.refine(recipe.image(seed, 320, 320), probability)
    assert got.dtype == bool and 0 < expected.sum() < expected.size
    # The same library and input: only the order of float32 sums may differ.
    assert (got != expected).mean() < 0.001


def two_halves(rows, columns):
    """Return an image that is dark on the left and bright on the right, and where."""
    image = np.full([rows, columns, 3], 40, np.uint8)
    image[:, columns // 2 :] = 200
    return image, image[:, :, 0] == 200


def test_saturated_probabilities_give_a_clean_mask():
    image, right = two_halves(30, 50)
    probability = right.astype(np.float32)
    np.testing.assert_array_equal(dense_crf.refine(image, probability), right)


def test_a_hole_of_the_same_colour_is_filled():
    image, right = two_halves(30, 50)
    probability = np.where(right, 0.9, 0.1).astype(np.float32)
    probability[14:16, 36:38] = 0.4
    np.testing.assert_array_equal(dense_crf.refine(image, probability), right)


def test_an_image_that_is_not_contiguous_gives_the_same():
    image, right = two_halves(30, 50)
    probability = np.where(right, 0.7, 0.3).astype(np.float32)
    mirrored = dense_crf.refine(image[:, ::-1], probability[:, ::-1])
    np.testing.assert_array_equal(mirrored, right[:, ::-1])


def test_the_clip_leaves_ordinary_values_alone():
    p = np.array([[1e-30, 1e-8, 0.25, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]], np.float32)
    expected = np.stack([-np.log(1 - p[0]), -np.log(p[0])])
    np.testing.assert_array_equal(dense_crf.unary_energy(p), expected)


def test_the_energies_of_0_and_1_are_finite():
    energy = dense_crf.unary_energy(np.array([[0, 1]], np.float32))
    # -log of the smallest normal float32 (2**-126) and of the last gap below 1.
    expected = [[0, 24 * np.log(2)], [126 * np.log(2), 2.0**-24]]
    np.testing.assert_allclose(energy, expected, rtol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1, np.inf])
def test_values_that_are_no_probability_are_refused(wrong):
    probability = np.full([4, 6], 0.5, np.float32)
    probability[2, 3] = wrong
    with pytest.raises(ValueError, match="outside 0..1"):
        dense_crf.refine(np.zeros([4, 6, 3], np.uint8), probability)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"\[6, 4\]"):
        dense_crf.refine(np.zeros([4, 6, 3], np.uint8), np.zeros([6, 4], np.float32))


@pytest.mark.parametrize(
    "image", [np.zeros([4, 6, 3], np.float32), np.zeros([4, 6], np.uint8)]
)
def test_another_kind_of_image_is_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        dense_crf.refine(image, np.zeros([4, 6], np.float32))


def test_a_missing_library_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        dense_crf.refine(np.zeros([4, 6, 3], np.uint8), np.zeros([4, 6], np.float32))


def test_masks_of_one_image_are_those_of_one_at_a_time():
    image = recipe.image(5, 60, 80)
    random = np.random.RandomState(0)
    probabilities = random.uniform(0, 1, [3, 60, 80]).astype(np.float32)
    wanted = [dense_crf.refine(image, probability) for probability in probabilities]
    assert len({mask.tobytes() for mask in wanted}) == 3
    np.testing.assert_array_equal(dense_crf.refine_all(image, probabilities), wanted)
    with dense_crf.Workers(2) as workers:
        futures = [workers.submit(image, [p]) for p in probabilities]
        for future, mask in zip(futures, wanted):
            np.testing.assert_array_equal(workers.result(future, "")[0], mask)
