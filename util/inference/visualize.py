"""Images of results: what was asked, what is right and what was found."""

import re
import unicodedata
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from util.core.files import writing

TRUE_COLOUR = (0, 200, 120)
FOUND_COLOUR = (255, 110, 20)
ADDED_COLOUR, REMOVED_COLOUR = (86, 180, 233), (240, 228, 66)
MAP_SIDE = 320  # pixels, the longer side of a heat map
INK = (28, 32, 38)
FAINT_INK = (110, 116, 126)
PAPER = (255, 255, 255)
CLASS_COLOURS = {  # of words; colour-blind people tell them apart
    "entity": "#0072b2",
    "attribute": "#e69f00",
    "relation": "#cc79a7",
    "unnecessary": "#8a8a8a",
}
OTHER_COLOUR = "#56b4e9"  # of any other class, and of words without classes
# Colours of probabilities 0, 1/2 and 1.
HEAT = ((24, 24, 70), (214, 62, 90), (255, 224, 110))
MIN_SIDE = 240  # pixels, the longer side of an image in result_image
SHEET_SIDE = 220  # the same in contact_sheet
TYPEWRITER = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")

Result = Tuple[np.ndarray, np.ndarray, np.ndarray, str, str]


def result_image(
    image: np.ndarray,
    mask: np.ndarray,
    found: np.ndarray,
    sentence: str,
    note: str = "",
) -> np.ndarray:
    """Draw an image, its true mask and the mask that was found side by side.

    Args:
      image: uint8 [H, W, 3], RGB; small ones are enlarged.
      mask: bool [H, W], True on the object.
      found: bool [H, W], the same of the prediction.
      sentence: any text; it stands above, wrapped. What the built-in font cannot
        show is spelled in ASCII or becomes "?".
      note: a short text under the sentence, for instance the IoU.

    Returns:
      uint8 [rows, columns, 3], RGB.

    Raises:
      ValueError: a mask does not have the size of the image.
    """
    rows, columns = image.shape[:2]
    scale = max(1, MIN_SIDE / max(rows, columns))
    width = max(MIN_SIDE, round(scale * columns))
    return np.array(_draw(image, mask, found, sentence, note, scale, width))


def contact_sheet(results: Sequence[Result], columns: int = 2) -> np.ndarray:
    """Draw many results as a grid, in reading order.

    Args:
      results: at least one (image, mask, found, sentence, note), each as for
        `result_image`.
      columns: int, the most results side by side.

    Returns:
      uint8 [rows, columns, 3], RGB.

    Raises:
      ValueError: there are no results, or a mask has not the size of its image.
    """
    if not results:
        raise ValueError("a contact sheet needs at least one result")
    cells = [
        _draw(*result, scale=SHEET_SIDE / max(result[0].shape[:2]), width=SHEET_SIDE)
        for result in results
    ]
    columns = min(columns, len(cells))
    grid = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in grid]
    sheet = Image.new("RGB", (columns * cells[0].width, sum(heights)), PAPER)
    for index, row in enumerate(grid):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * cell.width, sum(heights[:index])))
    return np.array(sheet)


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: Tuple[int, int, int] = FOUND_COLOUR
) -> np.ndarray:
    """Tint and outline the object in an image, and dim the rest.

    Args:
      image: uint8 [H, W, 3], RGB.
      mask: bool, True on the object; of another size it is stretched over the image.
      colour: of the tint, RGB 0..255.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    return np.array(_overlay(Image.fromarray(image), mask, colour))


def difference(image: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Show which pixels of a mask were added and removed.

    Args:
      image: uint8 [H, W, 3], RGB.
      before, after: bool, as for `overlay`.

    Returns:
      uint8 [H, W, 3], RGB: ADDED_COLOUR and REMOVED_COLOUR where the masks differ, the
      image as it is where both are, and dimmed elsewhere.
    """
    drawn = Image.fromarray(image)
    result = _dimmed(drawn)
    result.paste(drawn, mask=_stencil(before & after, drawn.size))
    for region, colour in (
        (after & ~before, ADDED_COLOUR),
        (before & ~after, REMOVED_COLOUR),
    ):
        result.paste(colour, mask=_stencil(region, drawn.size))
    return np.array(result)


def heat_map(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Colour an image by probability, HEAT from dark to light.

    Args:
      image: uint8 [H, W, 3], RGB.
      probability: float [H, W], 0..1.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    ends = np.linspace(0, 1, len(HEAT))
    heat = [np.interp(probability, ends, channel) for channel in zip(*HEAT)]
    grey = np.array(Image.fromarray(image).convert("L"))[..., np.newaxis]
    opacity = 0.4 + 0.5 * probability[..., np.newaxis]
    mixed = grey + opacity * (np.stack(heat, axis=-1) - grey)
    return np.rint(mixed).astype(np.uint8)


def rounds_image(
    image: np.ndarray,
    levels: Dict[str, np.ndarray],
    words: Sequence[Tuple[str, Sequence[float]]],
) -> np.ndarray:
    """Draw heat maps, two in a row, and below them what each word counts.

    Args:
      image: uint8 [H, W, 3], RGB.
      levels: name -> float [H, W], 0..1.
      words: (word, its attention in each round, 0..1).

    Returns:
      uint8, RGB, twice MAP_SIDE wide.
    """
    scale = MAP_SIDE / max(image.shape[:2])
    rows, columns = (max(1, round(scale * side)) for side in image.shape[:2])
    unit = MAP_SIDE // 20
    step = rows + 2 * unit
    below = (len(levels) + 1) // 2 * step
    height = below + (len(words) + 2) * 2 * unit
    canvas = Image.new("RGB", (2 * MAP_SIDE + 3 * unit, height), PAPER)
    for number, (name, level) in enumerate(levels.items()):
        left = unit + number % 2 * (MAP_SIDE + unit)
        top = number // 2 * step
        _caption(canvas, (left, top + unit), unit, name)
        drawn = Image.fromarray(heat_map(image, level)).resize((columns, rows))
        canvas.paste(drawn, (left, top + 2 * unit))
    note = "what each word counts in the last round (bar), and in all rounds"
    _caption(canvas, (unit, below + 2 * unit), unit, note)
    for line, (word, shares) in enumerate(words, 2):
        middle = below + line * 2 * unit
        shown = "  ".join(f"{share:.2f}" for share in shares)
        _write(canvas, (unit, middle), _ascii(word)[:24], _font(unit), INK)
        _write(canvas, (MAP_SIDE + 2 * unit, middle), shown, _font(unit), FAINT_INK)
        bar = [MAP_SIDE // 2, middle - unit // 3]
        bar += [bar[0] + round(shares[-1] * MAP_SIDE / 2), middle + unit // 3]
        ImageDraw.Draw(canvas).rectangle(bar, FOUND_COLOUR)
    return np.array(canvas)


def class_colour(kind: Optional[str]) -> str:
    """Return the colour of a class of words, #rrggbb."""
    return CLASS_COLOURS.get(kind, OTHER_COLOUR)


def save_png(path: str, image: np.ndarray) -> None:
    """Write an image, whole or not at all.

    Args:
      path: the file to make or replace.
      image: uint8 [H, W, 3] RGB, or [H, W] grey.

    Raises:
      UserError: it cannot be written.
    """
    with writing(path) as file:
        Image.fromarray(image).save(file, "PNG")


def _draw(image, mask, found, sentence, note, scale, width):
    """Return one result: text above three panels that are `width` pixels wide."""
    for name, array in (("mask", mask), ("found", found)):
        if array.shape != image.shape[:2]:
            raise ValueError(
                f"{name} is {list(array.shape)}, but the image is {list(image.shape)}"
            )
    rows, columns = (max(1, round(scale * length)) for length in image.shape[:2])
    resized = Image.fromarray(image).resize((columns, rows), Image.BICUBIC)
    unit = max(16, width // 24)  # the font size, which all gaps follow
    step, total = width + unit // 2, 3 * width + 2 * (unit // 2)
    head = _heading(sentence, note, unit, total)
    line = round(1.5 * unit)
    top = unit + head.height + unit // 2 + line
    canvas = Image.new("RGB", (total + 2 * unit, top + rows + unit), PAPER)
    canvas.paste(head, (unit, unit))
    _caption(canvas, (unit, top - line // 2), unit, "image")
    canvas.paste(resized, (unit, top))
    panels = (("true mask", mask, TRUE_COLOUR), ("found mask", found, FOUND_COLOUR))
    for number, (caption, region, colour) in enumerate(panels, 1):
        if not region.any():
            caption += ": empty"
        left = unit + number * step
        _caption(canvas, (left, top - line // 2), unit, caption, colour)
        canvas.paste(_overlay(resized, region, colour), (left, top))
    return canvas


def _heading(sentence, note, unit, width):
    """Return the sentence and, smaller and in grey, the note."""
    big, small = _font(unit), _font(round(0.8 * unit))
    lines = [(text, big, INK) for text in _wrap(sentence, big, width)]
    lines += [(text, small, FAINT_INK) for text in _wrap(note, small, width)]
    line = round(1.3 * unit)
    head = Image.new("RGB", (width, len(lines) * line), PAPER)
    for number, (text, font, colour) in enumerate(lines):
        _write(head, (0, number * line + line // 2), text, font, colour)
    return head


def _caption(canvas, left_middle, unit, text, colour=None):
    """Write the name of a panel, behind a swatch of its colour if it has one."""
    left, middle = left_middle
    if colour:
        half = unit // 3
        swatch = [left, middle - half, left + 2 * half, middle + half]
        ImageDraw.Draw(canvas).rectangle(swatch, colour)
        left += unit
    _write(canvas, (left, middle), text, _font(round(0.8 * unit)), FAINT_INK)


def _overlay(image, region, colour):
    """Return the image with the region tinted and outlined, and the rest dimmed."""
    stencil = _stencil(region, image.size)
    line = 2 * max(1, max(image.size) // 240) + 1
    tint = Image.new("RGB", image.size, colour)
    result = _dimmed(image)
    around = ndimage.maximum_filter(np.array(stencil), line, mode="nearest")
    result.paste(PAPER, mask=Image.fromarray(around))
    result.paste(tint, mask=stencil)
    inside = ndimage.minimum_filter(np.array(stencil), line, mode="nearest")
    result.paste(Image.blend(image, tint, 0.35), mask=Image.fromarray(inside))
    return result


def _stencil(region, size):
    """Return a mask in grey, stretched to (width, height)."""
    return Image.fromarray(region.astype(np.uint8) * 255).resize(size)


def _dimmed(image):
    return Image.blend(image, Image.new("RGB", image.size, INK), 0.5)


def _font(size):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 the built-in font had one size
        return ImageFont.load_default()


def _write(canvas, left_middle, text, font, colour):
    left, middle = left_middle
    _, top, _, bottom = font.getbbox("Ag")
    ImageDraw.Draw(canvas).text(
        (left, middle - (top + bottom) // 2), text, colour, font
    )


def _wrap(text, font, width):
    """Break a text into lines of at most `width` pixels; words may break too."""
    letters = int(width / font.getlength("W"))  # the widest letter
    lines = [""]
    for word in re.findall(r"\S{1,%d}" % letters, _ascii(text)):
        longer = (lines[-1] + " " + word).strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def _ascii(text):
    """Spell a text in the letters that the built-in font of any Pillow has."""
    parts = unicodedata.normalize("NFKD", text.translate(TYPEWRITER))
    letters = "".join(part for part in parts if not unicodedata.combining(part))
    return re.sub(r"[^ -~]", "?", " ".join(letters.split()))
