"""util.data.im_processing: agreement with the reference, and images of all kinds."""

import os
from pathlib import Path

import numpy as np
import pytest
import recipe
import skimage.transform
from PIL import Image

from util.core.errors import UserError
from util.data import im_processing

GOLDEN = np.load(str(Path(__file__).parents[1] / "golden" / "resize.npz"))
CASES = sorted({key.split("_")[0] + "_" + key.split("_")[1] for key in GOLDEN.files})


def parse(case):
    """Return (seed, height, width) of "s<seed>_<h>x<w>"."""
    seed, size = case[1:].split("_")
    return (int(seed),) + tuple(map(int, size.split("x")))


def different_bits(mask, golden_key):
    """Return the share of pixels where a mask is not the packed golden one."""
    golden = np.unpackbits(GOLDEN[golden_key])[: mask.size]
    return np.mean(mask.ravel() != golden.astype(bool))


@pytest.mark.parametrize("case", CASES)
def test_image_is_the_one_of_the_reference(case):
    seed, height, width = parse(case)
    image = im_processing.fit_image(recipe.image(seed, height, width), 320, 320)
    assert image.dtype == np.uint8 and image.shape == (320, 320, 3)
    off = np.abs(image[::8].astype(int) - GOLDEN[case + "_padded_rows"])
    assert off.max() <= 1
    # Newer versions of scikit-image round another way where a value lies between
    # two grey levels, and halving 640 exactly puts a quarter of them there.
    assert np.mean(off > 0) < (0.10 if (height, width) == (480, 640) else 0.012)


@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_the_reference(case):
    """Masks differ in no pixel today; 0.1 % leaves room for another rounding."""
    seed, height, width = parse(case)
    mask = recipe.mask(seed, height, width)[..., 0] > 0
    fitted = im_processing.fit_mask(mask, 320, 320)
    assert fitted.dtype == bool
    assert different_bits(fitted, case + "_mask_padded") < 0.001
    prediction = recipe.mask(seed + 50, 320, 320)[..., 0]
    restored = im_processing.resize_and_crop(prediction, height, width) != 0
    assert different_bits(restored, case + "_pred_cropped") < 0.001
    again = im_processing.restore_mask(prediction > 0, height, width)
    np.testing.assert_array_equal(again, restored)
    intersection, union = GOLDEN[case + "_IU"]
    iou = np.sum(restored & mask) / np.sum(restored | mask)
    assert iou == pytest.approx(intersection / union, rel=0.001)


def scikit_image(im, height, width):
    """Resize with every option as scikit-image had it by default in 2018."""
    return skimage.transform.resize(
        im,
        (height, width),
        order=1,
        mode="constant",
        cval=0,
        clip=True,
        preserve_range=False,
        anti_aliasing=False,
    )


@pytest.mark.parametrize(
    "new", [(1, 1), (3, 9), (5, 10), (9, 3), (7, 20), (25, 60)], ids=str
)
@pytest.mark.parametrize("old", [(1, 5), (9, 20), (10, 7), (30, 13)], ids=str)
def test_resize_is_that_of_scikit_image(old, new):
    random = np.random.RandomState(1)
    grey = random.uniform(0.5, 1, old)
    colour = random.randint(30, 256, old + (3,)).astype(np.uint8)
    for im, accuracy in (
        (grey, 1e-12),
        (grey.astype(np.float32), 1e-6),
        (-grey, 1e-12),
    ):
        got = im_processing._resize_to_unit(im, *new)
        assert got.dtype == im.dtype
        np.testing.assert_allclose(got, scikit_image(im, *new), rtol=accuracy)
    got = im_processing._resize_to_unit(colour, *new)
    np.testing.assert_allclose(got, scikit_image(colour, *new), rtol=1e-12)


def test_sums_of_more_than_32_bits():
    grey = np.array([[255, 30, 255]], np.uint8)
    got = im_processing._resize_to_unit(grey, 1500, 1450)
    np.testing.assert_allclose(got, scikit_image(grey, 1500, 1450), rtol=1e-12)


@pytest.mark.parametrize("new", [(1, 1), (9, 20), (20, 9), (27, 60), (31, 41), (3, 60)])
def test_masks_see_what_a_resized_image_sees(new):
    mask = np.random.RandomState(2).uniform(size=(9, 20)) > 0.9
    fitted = im_processing.fit_mask(mask, *new)
    assert fitted.dtype == bool
    padded = im_processing.resize_and_pad(mask.astype(np.float32), *new)
    np.testing.assert_array_equal(fitted, padded > 0)
    cropped = im_processing.resize_and_crop(mask.astype(np.float32), *new)
    np.testing.assert_array_equal(im_processing.restore_mask(mask, *new), cropped > 0)
    # scikit-image's weights of 1e-16 count where they should be 0; not in these sizes.
    resized = scikit_image(mask.astype(float), *new)
    np.testing.assert_array_equal(im_processing._resize_mask(mask, *new), resized > 0)


def test_halves_are_rounded_to_even_numbers():
    image = np.array([[[0, 1, 2], [0, 1, 3]], [[1, 2, 2], [1, 2, 3]]], np.uint8)
    fitted = im_processing.fit_image(image, 1, 1)
    assert fitted.tolist() == [[[0, 2, 2]]]


def test_padding_is_centred_with_the_smaller_half_first():
    padded = im_processing.resize_and_pad(np.ones((2, 5)), 5, 5)
    assert padded[1:3].all() and not padded[0].any() and not padded[3:].any()
    padded = im_processing.resize_and_pad(np.full((5, 2, 3), 255, np.uint8), 5, 5)
    assert padded.shape == (5, 5, 3)
    np.testing.assert_allclose(padded[0, :, 0], [0, 1, 1, 0, 0], rtol=1e-12)


def test_mask_edges_grow():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    assert im_processing.fit_mask(mask, 8, 8).sum() == 16


def test_crop_undoes_pad():
    mask = recipe.mask(5, 30, 50)[..., 0] > 0
    padded = im_processing.fit_mask(mask, 50, 50)
    restored = im_processing.resize_and_crop(padded.astype(float), 30, 50) != 0
    np.testing.assert_array_equal(restored, mask)


@pytest.mark.parametrize("height, width", [(1, 900), (900, 1), (1, 1)])
def test_extreme_images_still_fit(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    assert im_processing.fit_image(image, 32, 32).max() > 0
    restored = im_processing.resize_and_crop(np.ones((32, 32)), height, width)
    assert restored.shape == (height, width)


def test_network_input_is_bgr_minus_the_mean():
    image = recipe.image(1, 9, 7)
    got = im_processing.to_network_input(image)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, recipe.network_input(image))
    np.testing.assert_array_equal(
        im_processing.to_network_input(np.stack([image, image]))[1], got
    )


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.random.RandomState(0).randint(0, 256, (3, 4, 3)).astype(np.uint8)
GREY_AS_RGB = np.stack([GREY] * 3, axis=2)


def saved(tmp_path, image, ending=".png", **options):
    path = str(tmp_path / ("image" + ending))
    image.save(path, **options)
    return im_processing.read_image(path)


def check(got, expected):
    assert got.dtype == np.uint8 and got.flags.writeable
    np.testing.assert_array_equal(got, expected)


def test_rgb_and_grey(tmp_path):
    check(saved(tmp_path, Image.fromarray(COLOUR)), COLOUR)
    check(saved(tmp_path, Image.fromarray(GREY)), GREY_AS_RGB)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bits_give_their_high_byte(tmp_path, ending):
    deep = GREY.astype(np.uint16) * 256 + 130
    check(saved(tmp_path, Image.fromarray(deep), ending), GREY_AS_RGB)


def test_transparency_is_left_out(tmp_path):
    alpha = Image.fromarray(GREY)
    colour = Image.fromarray(COLOUR)
    colour.putalpha(alpha)
    check(saved(tmp_path, colour), COLOUR)
    check(saved(tmp_path, Image.merge("LA", [alpha, alpha])), GREY_AS_RGB)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{}, {"transparency": 3}, {"transparency": bytes([9, 99, 200])}]
)
def test_palette(tmp_path, options):
    indexed = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8))
    indexed.putpalette([255, 0, 0, 0, 200, 0, 1, 2, 3] + [0] * 759)
    expected = [[[255, 0, 0], [0, 200, 0]], [[1, 2, 3], [255, 0, 0]]]
    check(saved(tmp_path, indexed, **options), expected)


def test_one_bit(tmp_path):
    got = saved(tmp_path, Image.fromarray(np.eye(3, dtype=np.uint8) * 255).convert("1"))
    check(got, np.stack([np.eye(3) * 255] * 3, axis=2))


def test_cmyk(tmp_path):
    got = saved(tmp_path, Image.new("CMYK", (5, 4), (0, 255, 255, 0)), ".tif")
    check(got, np.full((4, 5, 3), [255, 0, 0]))


@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, COLOUR),
        (2, COLOUR[:, ::-1]),
        (3, COLOUR[::-1, ::-1]),
        (4, COLOUR[::-1]),
        (5, COLOUR.transpose(1, 0, 2)),
        (6, np.rot90(COLOUR, -1)),
        (7, np.rot90(COLOUR, 2).transpose(1, 0, 2)),
        (8, np.rot90(COLOUR)),
    ],
)
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    check(saved(tmp_path, Image.fromarray(COLOUR), exif=exif.tobytes()), turned)


def test_missing_image_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no image .*gone.jpg"):
        im_processing.read_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_truncated_image_is_refused_by_name(tmp_path, share):
    path = tmp_path / "half.jpg"
    Image.fromarray(recipe.image(1, 60, 80)).save(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="half.jpg"):
        im_processing.read_image(str(path))


def test_text_is_no_image(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match="cannot read the image .*page.jpg"):
        im_processing.read_image(str(path))


def test_image_starts_no_program(tmp_path, monkeypatch):
    """Pillow gives an EPS file, whatever its name, to Ghostscript."""
    note = tmp_path / "note"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho $* >> {note}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = str(tmp_path / "photo.jpg")
    Image.new("RGB", (9, 9)).save(path, "EPS")
    for read in (im_processing.read_image, im_processing.read_mask):
        with pytest.raises(UserError, match="photo.jpg: cannot identify image"):
            read(path)
    assert not note.exists()
