"""Cases of a report: images, masks and words of a sentence as HTML."""

from typing import TYPE_CHECKING, Dict, List

import numpy as np
from PIL import Image, ImageColor

from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF
from util.evaluation.html import Html, element, join, photo, swatch
from util.inference import visualize

if TYPE_CHECKING:
    from util.evaluation.cases import Case, SeenWord

SIDE = 320  # pixels, the longer one of an image
ARROW = "\u2192"
KINDS = {
    "best": "The best",
    "worst": "The worst",
    "random": "Chosen by chance",
}
CLASSES = {
    "entity": "what the object is",
    "attribute": "how it looks",
    "relation": "how it stands to others",
    "unnecessary": "says nothing about it",
}
FAINTEST, STRONGEST = 0.08, 0.6  # of a word's colour: the text stays readable


def gallery(cases: Dict[str, List["Case"]]) -> Html:
    """Show all cases.

    Args:
      cases: kind, of KINDS -> cases; kinds without any are left out.
    """
    parts = [_legend()]
    for kind, some in cases.items():
        if some:
            parts.append(element("h3", KINDS[kind]))
            parts += map(_case, some)
    return join(parts)


def _legend():
    """Say what the colours of words mean."""
    classes = [
        element("span", _coloured(name, name), f" {meaning}")
        for name, meaning in CLASSES.items()
    ]
    note = (
        "Each word has the colour of the class that the network finds most probable; "
        "the stronger the colour, the more probable. Pointing at a word shows the "
        "probabilities of all four classes."
    )
    return join(
        [
            element("p", note, class_="faint"),
            element("p", *classes, class_="legend"),
        ]
    )


def _case(case):
    words = join([_word(word) for word in case.words], " ")
    lines = [element("h4", words), element("p", _facts(case), class_="faint")]
    if not case.is_as_recorded:
        note = (
            "The masks are not those of the test: the record has another IoU. Was the "
            "snapshot replaced since?"
        )
        lines.append(element("p", element("strong", note)))
    panels = element("div", *_panels(case), class_="panels")
    return element("article", *lines, panels)


def _word(word: "SeenWord") -> Html:
    """Colour a word by its class."""
    if word.weights is None:
        return element("span", word.text, class_="faint", title="was not read")
    kind = max(word.weights, key=word.weights.get)
    numbers = ", ".join(f"{name} {w:.2f}" for name, w in word.weights.items())
    return _coloured(word.text, kind, word.weights[kind], title=numbers)


def _coloured(word, kind, weight=0.7, **attributes):
    colour = ", ".join(map(str, ImageColor.getrgb(visualize.CLASS_COLOURS[kind])))
    strength = FAINTEST + (STRONGEST - FAINTEST) * weight
    style = f"--colour: {colour}; --strength: {strength:.2f}"
    return element("span", word, class_=f"word {kind}", style=style, **attributes)


def _facts(case):
    """Return the numbers of a case in a line."""
    ious = [f"{100 * case.ious[title]:.1f} %" for title in case.ious]
    row = case.row
    share = 100 * row["area"] / (row["height"] * row["width"])
    facts = [f"IoU {f' {ARROW} '.join(ious)}"]
    if len(ious) > 1:
        facts[0] += " with DenseCRF"
    facts += [f"object {share:.1f} % of the image", f"number {row['number']}"]
    return " \u00b7 ".join(facts + [row["image"]] * bool(row["image"]))


def _panels(case):
    """Return the images of a case."""
    scale = SIDE / max(case.image.shape[:2])
    rows, columns = (max(1, round(scale * side)) for side in case.image.shape[:2])
    image = Image.fromarray(case.image).resize((columns, rows), Image.BICUBIC)
    image = np.array(image)
    about = f'"{case.row["sentence"]}"'
    panels = [photo(image, f"The image of {about}", "image")]
    last = case.masks.get(WITH_CRF, case.masks.get(WITHOUT_CRF))
    for name, mask, colour in (
        ("true mask", case.true, visualize.TRUE_COLOUR),
        ("found mask", last, visualize.FOUND_COLOUR),
    ):
        shown = visualize.overlay(image, mask, colour)
        empty = "" if mask.any() else ": empty"
        caption = _named(colour, name + empty)
        panels.append(photo(shown, f"The {name} of {about}{empty}", caption))
    if len(case.masks) == 2:
        panels.append(_difference(image, case, about))
    return panels


def _difference(image, case, about):
    """Show what DenseCRF did."""
    before, after = case.masks[WITHOUT_CRF], case.masks[WITH_CRF]
    added = np.count_nonzero(after & ~before)
    removed = np.count_nonzero(before & ~after)
    caption = join(
        [
            "DenseCRF:",
            _named(visualize.ADDED_COLOUR, f"{added} pixels added,"),
            _named(visualize.REMOVED_COLOUR, f"{removed} removed"),
        ]
    )
    alt = f"What DenseCRF changed for {about}: {added} pixels added, {removed} removed"
    return photo(visualize.difference(image, before, after), alt, caption)


def _named(colour, name):
    """Show a colour and its name in one line."""
    return element("span", swatch(colour), name, class_="kept")
