"""util.dense_crf: the published refinement, and probabilities at the border."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import recipe
from skimage import data

from util.core.errors import UserError
from util.inference import dense_crf

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "dense_crf.npz"
PHOTOGRAPHS = (  # those that scikit-image brings along
    "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field "
    "immunohistochemistry moon rocket"
).split()


@pytest.fixture(params=dense_crf.BACKENDS)
def backend(request):
    if request.param == "pydensecrf":
        needs_pydensecrf()
    return request.param


def needs_pydensecrf():
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")


@pytest.mark.parametrize("seed", [41, 42])
def test_agrees_with_the_reference(seed, backend):
    with np.load(str(GOLDEN)) as golden:
        probability = golden[f"s{seed}_sigm"].astype(np.float32)
        packed = golden[f"s{seed}_label"]
    expected = np.unpackbits(packed).reshape(320, 320).astype(bool)
    got = dense_crf.refine(recipe.image(seed, 320, 320), probability, backend)
    assert got.dtype == bool and 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(got, expected)


def test_agrees_with_pydensecrf_on_photographs():
    """Rounding decides about pixels that are torn between both labels."""
    needs_pydensecrf()
    differ = total = 0
    for name in PHOTOGRAPHS:
        image = middle(getattr(data, name)())
        maps = probabilities(*image.shape[:2])
        ours = dense_crf.refine_all(image, maps)
        theirs = dense_crf.refine_all(image, maps, "pydensecrf")
        assert (ours != (maps > 0.5)).any(axis=(1, 2)).all()
        differ += (ours != theirs).sum()
        total += ours.size
    assert total > 3e6 and differ <= total / 1e5


def middle(image):
    """Return uint8 [H, W, 3], the middle of an image, which may be grey."""
    top, left = (max(0, (size - 320) // 2) for size in image.shape[:2])
    return np.dstack([image] * 3)[top : top + 320, left : left + 320, :3]


def probabilities(rows, columns):
    """Return float32 [3, rows, columns]: a soft blot, a noisy one, soft squares."""
    random = np.random.RandomState(0)
    y, x = np.linspace(-2, 2, rows)[:, np.newaxis], np.linspace(-3, 2, columns)
    blot = np.exp(-(x**2) - y**2)
    noisy = np.clip(blot + random.normal(0, 0.15, blot.shape), 0, 1)
    squares = np.kron(random.uniform(0.05, 0.95, [20, 20]), np.ones([16, 16]))
    return np.stack([blot, noisy, squares[:rows, :columns]]).astype(np.float32)


def two_halves(rows, columns):
    """Return an image that is dark on the left and bright on the right, and where."""
    image = np.full([rows, columns, 3], 40, np.uint8)
    image[:, columns // 2 :] = 200
    return image, image[:, :, 0] == 200


def test_saturated_probabilities_give_a_clean_mask(backend):
    image, right = two_halves(30, 50)
    probability = right.astype(np.float32)
    np.testing.assert_array_equal(dense_crf.refine(image, probability, backend), right)


def test_a_hole_of_the_same_colour_is_filled(backend):
    image, right = two_halves(30, 50)
    probability = np.where(right, 0.9, 0.1).astype(np.float32)
    probability[14:16, 36:38] = 0.4
    np.testing.assert_array_equal(dense_crf.refine(image, probability, backend), right)


def test_a_image_that_is_not_contiguous_gives_the_same(backend):
    image, right = two_halves(30, 50)
    probability = np.where(right, 0.7, 0.3).astype(np.float32)
    mirrored = dense_crf.refine(image[:, ::-1], probability[:, ::-1], backend)
    np.testing.assert_array_equal(mirrored, right[:, ::-1])


def test_arrays_that_are_read_only_are_taken(backend):
    image, right = two_halves(30, 50)
    probability = np.where(right, 0.7, 0.3).astype(np.float32)
    image.flags.writeable = probability.flags.writeable = False
    np.testing.assert_array_equal(dense_crf.refine(image, probability, backend), right)


@pytest.mark.parametrize("rows, columns", [(1, 1), (1, 7), (7, 1)])
def test_tiny_images(rows, columns, backend):
    image = np.full([rows, columns, 3], 90, np.uint8)
    for value in (0.0, 0.2, 0.8, 1.0):
        probability = np.full([rows, columns], value, np.float32)
        got = dense_crf.refine(image, probability, backend)
        np.testing.assert_array_equal(got, probability > 0.5)


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
    image, probability = np.zeros([4, 6, 3], np.uint8), np.zeros([4, 6], np.float32)
    for use in (
        lambda: dense_crf.refine(image, probability, "pydensecrf"),
        lambda: dense_crf.Workers(1, "pydensecrf"),
    ):
        with pytest.raises(UserError, match="pip install pydensecrf2") as error:
            use()
        assert "\n" not in str(error.value)
    assert not dense_crf.refine(image, probability).any()


def test_a_backend_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'own', 'pydensecrf'"):
        dense_crf.Workers(1, "gpu")


def test_masks_of_one_image_are_those_of_one_at_a_time(backend, monkeypatch):
    monkeypatch.setattr(dense_crf, "TOGETHER", 2)
    image = recipe.image(5, 60, 80)
    random = np.random.RandomState(0)
    probabilities = random.uniform(0, 1, [3, 60, 80]).astype(np.float32)
    wanted = [dense_crf.refine(image, one, backend) for one in probabilities]
    assert len({mask.tobytes() for mask in wanted}) == 3
    got = dense_crf.refine_all(image, probabilities, backend)
    np.testing.assert_array_equal(got, wanted)
    with dense_crf.Workers(2, backend) as workers:
        futures = [workers.submit(image, [p]) for p in probabilities]
        for future, mask in zip(futures, wanted):
            np.testing.assert_array_equal(workers.result(future, "")[0], mask)


def test_threads_do_not_change_the_masks():
    random = np.random.RandomState(0)
    images = [recipe.image(seed, 60, 80) for seed in range(8)]
    probability = random.uniform(0, 1, [60, 80]).astype(np.float32)
    wanted = [dense_crf.refine(image, probability) for image in images]
    with ThreadPoolExecutor(4) as pool:
        got = pool.map(dense_crf.refine, images, [probability] * len(images))
    np.testing.assert_array_equal(list(got), wanted)


def test_no_masks():
    none = np.zeros([0, 4, 6], np.float32)
    assert dense_crf.refine_all(np.zeros([4, 6, 3], np.uint8), none).shape == (0, 4, 6)
