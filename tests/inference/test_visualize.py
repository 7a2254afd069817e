"""util.inference.visualize: where masks land, texts of every kind."""

import os

import numpy as np
import pytest
from PIL import Image

from util.inference import visualize
from util.inference.visualize import FOUND_COLOUR, PAPER, TRUE_COLOUR

GREY = 100


def sample(rows=300, columns=400, sentence="the left square", note=""):
    """Return a grey image with the true mask left and the found one right."""
    image = np.full([rows, columns, 3], GREY, np.uint8)
    mask, found = np.zeros([2, rows, columns], bool)
    mask[rows // 4 : rows // 2, : columns // 2] = True
    found[rows // 4 : rows // 2, columns // 2 :] = True
    return image, mask, found, sentence, note


def tinted(drawn, colour):
    """Return bool [H, W]: where a grey image leans to a colour."""
    strong, weak = np.argmax(colour), np.argmin(colour)
    return drawn[:, :, strong].astype(int) - drawn[:, :, weak] > 20


def panels(drawn, width, unit):
    """Cut the three panels, 2 unit // 2 apart, out of a result image."""
    rows = width * 3 // 4
    bottom = drawn.shape[0] - unit
    lefts = [unit + number * (width + unit // 2) for number in range(3)]
    return [drawn[bottom - rows : bottom, left : left + width] for left in lefts]


def test_the_panels_show_image_true_mask_and_found_mask():
    drawn = visualize.result_image(*sample())
    assert drawn.dtype == np.uint8
    image, true, found = panels(drawn, width=400, unit=16)
    np.testing.assert_array_equal(image, np.full([300, 400, 3], GREY))
    _, true_mask, found_mask, _, _ = sample()
    for panel, mask, colour in (
        (true, true_mask, TRUE_COLOUR),
        (found, found_mask, FOUND_COLOUR),
    ):
        # The outline lies up to two pixels to either side of the edge.
        assert (tinted(panel, colour) != mask).mean() < 0.02
        ground = panel[200:]
        assert (ground < GREY).all() and (ground == ground[0, 0]).all()


def test_small_images_are_enlarged():
    drawn = visualize.result_image(*sample(rows=30, columns=40))
    image, true, _ = panels(drawn, width=visualize.MIN_SIDE, unit=16)
    assert (image == GREY).all()
    share = tinted(true, TRUE_COLOUR).mean()
    # 8 x 20 of 30 x 40 pixels; 240 x 180 now, whose soft edge is 2 pixels wide.
    assert share == pytest.approx(160 / 1200, abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 2)])
def test_odd_sizes_are_drawn(shape):
    image = np.zeros(shape + (3,), np.uint8)
    mask = np.ones(shape, bool)
    drawn = visualize.result_image(image, mask, ~mask, "a", "b")
    assert drawn.shape[1] >= 3 * visualize.MIN_SIDE


def text_rows(drawn):
    """Count the rows of pixels that hold something above the panels."""
    return int((drawn != PAPER).any(axis=(1, 2)).sum())


def test_long_sentences_wrap_and_stay_inside():
    short = visualize.result_image(*sample(sentence="a"))
    for sentence in ("word " * 60, "W" * 300):
        drawn = visualize.result_image(*sample(sentence=sentence))
        assert drawn.shape[1] == short.shape[1]
        assert drawn.shape[0] > short.shape[0] + 20
        assert (drawn[:, -8:] == PAPER).all()


def test_sentence_and_note_are_drawn():
    plain = text_rows(visualize.result_image(*sample(sentence="")))
    named = text_rows(visualize.result_image(*sample()))
    noted = text_rows(visualize.result_image(*sample(note="IoU 0.50")))
    assert plain < named < noted


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        " \n\t ",
        "line\nbreak\x00\x1b[31m\x7f",
        "\u732b \u05e9\u05dc\u05d5\u05dd \U0001f600 \u202e\u200d",
        "lone surrogate \ud800",
        "".join(map(chr, range(0x2100))),
    ],
    ids=["empty", "blank", "control", "foreign", "surrogate", "many"],
)
def test_any_text_is_drawn(sentence):
    visualize.result_image(*sample(sentence=sentence, note=sentence))


def test_letters_the_font_lacks_are_spelled_or_replaced():
    same = visualize.result_image(*sample(sentence='the cafe\'s "cat" - ?? ?'))
    curly = "the caf\u00e9\u2019s \u201ccat\u201d \u2013 \u732b\u0436 \u00a7"
    drawn = visualize.result_image(*sample(sentence=curly))
    np.testing.assert_array_equal(drawn, same)


def test_an_empty_mask_is_named():
    image, mask, found, sentence, note = sample()
    drawn = visualize.result_image(image, mask, found & False, sentence, note)
    _, _, empty = panels(drawn, width=400, unit=16)
    assert not tinted(empty, FOUND_COLOUR).any()
    full = visualize.result_image(image, mask, found, sentence, note)
    assert (drawn[:-316] != full[:-316]).any()  # above the panels: the caption


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_mask_of_another_size_is_refused(wrong):
    arrays = list(sample())
    arrays[wrong] = arrays[wrong][:-1]
    with pytest.raises(ValueError, match=r"\[299, 400\]"):
        visualize.result_image(*arrays)


def test_contact_sheet_is_a_grid_in_reading_order():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    results = []
    for colour, rows in zip(colours, (300, 600, 400, 200, 50)):
        image, mask, found, sentence, note = sample(rows=rows)
        results.append((image // GREY * np.uint8(colour), mask, found, sentence, note))
    sheet = visualize.contact_sheet(results, columns=2)
    corners = []
    for colour in colours:
        where = (sheet == colour).all(axis=2)
        corners.append(np.argwhere(where).min(axis=0))
    (first, second, third, fourth, fifth) = corners
    assert sheet.shape[1] > 6 * visualize.SHEET_SIDE
    assert first[0] == second[0] and third[0] == fourth[0]
    assert first[1] == third[1] == fifth[1]
    assert second[1] == fourth[1] == first[1] + sheet.shape[1] // 2
    assert first[0] + visualize.SHEET_SIDE < third[0]
    assert third[0] + visualize.SHEET_SIDE < fifth[0]


def test_a_sheet_of_one_result_is_one_cell_wide():
    assert visualize.contact_sheet([sample()]).shape[1] < 4 * visualize.SHEET_SIDE


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        visualize.contact_sheet([])


def test_save_png_round_trip(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, [5, 7, 3]).astype(np.uint8)
    path = tmp_path / "new" / "image.png"
    visualize.save_png(str(path), image)
    with Image.open(str(path)) as file:
        np.testing.assert_array_equal(np.array(file), image)
    assert os.listdir(str(path.parent)) == ["image.png"]


def test_rounds_and_what_words_count():
    """Two maps a row; a bar is as long as a word counts in the last round."""
    image = np.full([40, 80, 3], 100, np.uint8)
    light, dark = np.ones([40, 80]), np.zeros([40, 80])
    levels = {"heat_1": light, "round_1": dark, "answer": light}
    words = [("the", (0.4, 0.25)), ("r\u00e9d \u65e5", (0.6, 0.75))]
    drawn = visualize.rounds_image(image, levels, words)
    side = visualize.MAP_SIDE
    assert drawn.shape == (2 * (side // 2 + 32) + 4 * 32, 2 * side + 48, 3)
    inside = [drawn[32 + 80, x] for x in (16 + side // 2, 32 + side + side // 2)]
    inside.append(drawn[192 + 32 + 80, 16 + side // 2])
    assert np.array_equal(inside[0], inside[2]) and inside[0].sum() > inside[1].sum()
    is_bar = (drawn == visualize.FOUND_COLOUR).all(axis=2)
    lengths = [is_bar[2 * 192 + 32 * line].sum() for line in (2, 3)]
    assert lengths == [side * 0.25 / 2 + 1, side * 0.75 / 2 + 1]
