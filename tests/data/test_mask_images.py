"""util.data.mask_images: what a file shows, and what is no mask."""

import numpy as np
import pytest
import recipe
from PIL import Image

from util.core.errors import UserError
from util.data import im_processing

ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 15**2
OTHER = (ROWS > 5) & (ROWS < 12) & (COLUMNS < 20)
WHITE = DISC.astype(np.uint8) * 255


def read(tmp_path, image, ending="png", **options):
    path = str(tmp_path / f"mask.{ending}")
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(path, **options)
    return im_processing.read_mask(path)[0]


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_grey_edges_of_a_lossy_file_are_not_the_object(tmp_path, ending, quality):
    found = read(tmp_path, WHITE, ending, quality=quality)
    np.testing.assert_array_equal(found, DISC)


def test_resized_edges_belong_to_what_they_are_nearer_to(tmp_path):
    large = Image.fromarray(WHITE).resize((320, 240), Image.BILINEAR)
    found = read(tmp_path, large)
    true = np.repeat(np.repeat(DISC, 4, 0), 4, 1)
    assert np.sum(found & true) / np.sum(found | true) > 0.97


def test_palette_counts_by_its_colours(tmp_path):
    image = Image.fromarray((~DISC).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    np.testing.assert_array_equal(read(tmp_path, image), DISC)
    image = Image.fromarray(DISC + 2 * OTHER.astype(np.uint8))
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 64, 0] + [0] * 759)
    np.testing.assert_array_equal(read(tmp_path, image), DISC | OTHER)
    np.testing.assert_array_equal(read(tmp_path, image.convert("RGB")), DISC | OTHER)


def test_small_greys_are_numbers_of_objects(tmp_path):
    found = read(tmp_path, DISC + 7 * OTHER.astype(np.uint8))
    np.testing.assert_array_equal(found, DISC | OTHER)


def test_values_of_12_of_16_bits(tmp_path):
    deep = DISC.astype(np.uint16) * 4095
    np.testing.assert_array_equal(read(tmp_path, deep), DISC)
    im_processing.read_mask(str(tmp_path / "mask.png"))
    shown = im_processing.read_image(str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(shown[..., 0], WHITE)
    read(tmp_path, DISC.astype(np.uint16) * 200)  # of 8 bits
    shown = im_processing.read_image(str(tmp_path / "mask.png"))
    assert shown.max() == 200


@pytest.mark.parametrize("colour", [0, 255, 90])
def test_cut_out_counts_by_its_transparency(tmp_path, colour):
    image = Image.new("RGB", (80, 60), (colour,) * 3)
    image.putalpha(Image.fromarray(WHITE))
    np.testing.assert_array_equal(read(tmp_path, image), DISC)


def test_what_is_transparent_shows_nothing(tmp_path):
    image = Image.fromarray(np.dstack([WHITE | 255 * OTHER.astype(np.uint8)] * 3))
    image.putalpha(Image.fromarray(255 * (~OTHER).astype(np.uint8)))
    np.testing.assert_array_equal(read(tmp_path, image), DISC)
    image.putalpha(0)
    assert not read(tmp_path, image).any()


def test_one_value_is_all_or_nothing(tmp_path):
    assert read(tmp_path, WHITE | 255).all()
    assert not read(tmp_path, WHITE * 0).any()


TWO_GREYS = np.where(OTHER, 100, WHITE).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize(
    "image, reason",
    [
        (recipe.image(1, 60, 80), "no mask"),
        (TWO_GREYS, "areas of values between 0 and 255"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, image, ending, reason):
    with pytest.raises(UserError, match=f"mask.{ending}.*{reason}"):
        read(tmp_path, image, ending)


def test_nothing_black_is_ambiguous(tmp_path):
    image = Image.fromarray(DISC.astype(np.uint8))
    image.putpalette([9, 90, 9, 200, 0, 0] + [0] * 762)
    with pytest.raises(UserError, match="nothing in it is black"):
        read(tmp_path, image)
    with pytest.raises(UserError, match="no NaN"):
        read(tmp_path, np.where(DISC, np.nan, 0).astype(np.float32), "tif")
