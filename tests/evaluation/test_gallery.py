"""util.evaluation.gallery: words in their colours, numbers, images of a case."""

import base64
import io

import numpy as np
import pytest
from pages import HOSTILE, Page
from PIL import Image
from test_breakdown import row

from util.evaluation import gallery
from util.evaluation.cases import Case, SeenWord
from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF
from util.inference import visualize

SIDE = gallery.SIDE
GREY = 100


def weights(*values):
    return dict(zip(gallery.CLASSES, values))


def case(sentence="the man left", with_crf=True, recorded=(1, 2), name="a.jpg"):
    """Return a grey case of 10 x 20 pixels; DenseCRF moves the mask downwards."""
    true, before, after = np.zeros([3, 10, 20], bool)
    true[4:8], before[3:6], after[4:8] = True, True, True
    words = [
        SeenWord("the", weights(0.1, 0.1, 0.1, 0.7)),
        SeenWord("man", weights(0.9, 0.1, 0.0, 0.0)),
        SeenWord(sentence, None),
    ]
    counts = dict(zip(("intersection", "union"), recorded))
    own = row(7, sentence, area=80, iou=(2, 6))
    own.update({"height": 10, "width": 20, "image": name, WITH_CRF: counts})
    masks, ious = {WITHOUT_CRF: before}, {WITHOUT_CRF: 1 / 3}
    if with_crf:
        masks[WITH_CRF], ious[WITH_CRF] = after, 1.0
    image = np.full([10, 20, 3], GREY, np.uint8)
    return Case(own, image, true, masks, words, ious)


def show(*cases, kind="best"):
    return Page("<div>" + gallery.gallery({kind: list(cases), "random": []}) + "</div>")


def images(page):
    """Return alt -> uint8 [H, W, 3]."""
    found = {}
    for attributes, _ in page.all("img"):
        content = base64.b64decode(attributes["src"].split(",")[1])
        found[attributes["alt"]] = np.array(Image.open(io.BytesIO(content)))
    return found


def test_words_have_the_colour_of_their_class_and_all_numbers():
    page = show(case())
    ((attributes, text),) = page.all("span", **{"class": "word entity", "title":
        "entity 0.90, attribute 0.10, relation 0.00, unnecessary 0.00"})  # fmt: skip
    assert (text, attributes["style"]) == (
        "man",
        "--colour: 0, 114, 178; --strength: 0.55",
    )
    style = "--colour: 138, 138, 138; --strength: 0.44"
    attributes, text = page.all("span", style=style)[-1]
    assert (text, attributes["class"]) == ("the", "word unnecessary")
    assert [text for _, text in page.all("h4")] == ["the man the man left"]


def test_facts_of_a_case():
    facts = show(case(recorded=(1, 1))).all("p", **{"class": "faint"})
    assert [text for _, text in facts][1:] == [
        "IoU 33.3 % \u2192 100.0 % with DenseCRF \u00b7 object 40.0 % of the image "
        "\u00b7 number 7 \u00b7 a.jpg"
    ]
    facts = show(case(with_crf=False, name="")).all("p", **{"class": "faint"})
    assert facts[1][1] == "IoU 33.3 % \u00b7 object 40.0 % of the image \u00b7 number 7"


@pytest.mark.parametrize("recorded, is_told", [((1, 1), False), ((1, 2), True)])
def test_masks_that_are_not_those_of_the_test_are_told(recorded, is_told):
    page = show(case(recorded=recorded))
    assert bool(page.all("strong")) == is_told


def test_images_of_a_case():
    page = show(case())
    shown = images(page)
    about = '"the man left"'
    assert list(shown) == [
        f"The image of {about}",
        f"The true mask of {about}",
        f"The found mask of {about}",
        f"What DenseCRF changed for {about}: 40 pixels added, 20 removed",
    ]
    for image in shown.values():
        assert image.shape == (SIDE // 2, SIDE, 3)
    image, true, found, change = (p.astype(int) for p in shown.values())
    cell = SIDE // 20
    here = {row: (row * cell + cell // 2, SIDE // 2) for row in range(10)}
    assert abs(image[here[5]] - GREY).max() < 6
    # The masks: rows 4 to 7, tinted green and orange; the rest is dark.
    for panel, colour in (
        (true, visualize.TRUE_COLOUR),
        (found, visualize.FOUND_COLOUR),
    ):
        strong = np.argmax(colour)
        assert panel[here[5]][strong] > GREY + 15 > GREY - 15 > panel[here[2]].max()
    # What was removed, kept and added, and the rest.
    assert abs(change[here[3]] - visualize.REMOVED_COLOUR).max() < 12
    assert abs(change[here[4]] - GREY).max() < 12
    assert abs(change[here[6]] - visualize.ADDED_COLOUR).max() < 12
    assert change[here[9]].max() < GREY - 15
    captions = [text for _, text in page.all("figcaption")]
    assert captions[1:3] == ["true mask", "found mask"]


def test_empty_masks_are_named():
    empty = case(with_crf=False)
    page = show(empty._replace(masks={WITHOUT_CRF: np.zeros([10, 20], bool)}))
    assert len(page.all("figure")) == 3
    assert page.all("figcaption")[2][1] == "found mask: empty"


def test_kinds_without_cases_are_left_out():
    assert [text for _, text in show(case(), kind="worst").all("h3")] == ["The worst"]


def test_hostile_sentences_and_names_are_shown():
    page = show(case(HOSTILE, name=HOSTILE))
    page.check_harmless()
    assert HOSTILE in [text for _, text in page.all("span", title="was not read")]
    assert any(HOSTILE in attributes["alt"] for attributes, _ in page.all("img"))
    assert page.all("p", **{"class": "faint"})[1][1].endswith(HOSTILE)
