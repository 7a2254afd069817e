"""util.evaluation.examples: from -m test --report to the page, and how it looks."""

import base64
import io
import json
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import runs
from pages import HOSTILE, Page
from PIL import Image
from scipy.special import expit
from test_breakdown import row

import trainval_model
from CMPC_model import LSTM_model
from util.core.errors import UserError
from util.data import datasets, im_processing
from util.evaluation import breakdown, evaluate, examples
from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF, compute_mask_IU
from util.evaluation.examples import Example
from util.inference import visualize
from util.inference.prediction import Word
from util.inference.predictor import Outputs

SNAPSHOT = "shapes_iter_1.tfmodel"
SIDE = 64
GREY = 100
SHOWN = examples.SIDE


class Network:
    """A predictor that finds what is brighter than the last word of the sentence."""

    model, vocab_size, word_classes = "CMPC_model", 50, LSTM_model.WORD_CLASSES
    together, rounds = 1, 0
    options = {}  # noqa: RUF012

    def __init__(self, snapshot, precision, model, xla=False, device=""):
        assert model is None and precision == "float32"
        assert snapshot.endswith(SNAPSHOT)

    def fit(self, image):
        return im_processing.fit_image(image, SIDE, SIDE)

    def find_all(self, images, ids, shows, probability):
        return list(map(self.find, images, ids))

    def find(self, image, ids):
        limits = 60 + 7 * (ids[:, -1] % 20)
        brightness = image.mean(axis=2)
        logits = (brightness - limits[:, None, None]).astype(np.float32) / 9
        weights = np.stack([ids + 1, ids % 3, ids % 5, ids % 7], axis=2)
        weights = weights / weights.sum(axis=2, keepdims=True)
        return Outputs(logits, expit(logits), weights, {})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Test with a stand-in for the network and --report; return (folder, options)."""
    folder = tmp_path_factory.mktemp("tested")
    data = runs.build(folder, jobs=1)
    (folder / "ckpts").mkdir()
    (folder / "ckpts" / f"{SNAPSHOT}.index").touch()
    options = ["-d", "shapes", "-t", "val", "-i", "1", "-f", str(folder / "ckpts")]
    options += [*data, "-g", "-1"]
    command = ["-m", "test", "-c", "--crf-jobs", "1", "--report"]
    with mock.patch.object(evaluate, "Predictor", Network):
        with mock.patch.object(examples, "Predictor", Network):
            assert trainval_model.main(command + options) == 0
            yield folder / "ckpts", options


def path(folder, ending):
    return folder / f"{SNAPSHOT}.val{ending}"


def find(tested, record):
    """Return the examples of a record."""
    folder, options = tested
    dataset = datasets.get("shapes", options[options.index("--data") + 1])
    return examples.find(str(folder / SNAPSHOT), dataset, record)


@pytest.fixture(scope="module")
def found(tested):
    """Return the examples of the test, and its record."""
    record = breakdown.read_record(str(path(tested[0], ".json")))
    return find(tested, record), record


def test_page_of_a_test_has_its_examples(tested):
    folder, _ = tested
    page = Page(path(folder, ".html").read_text(encoding="utf-8"))
    page.check_harmless()
    record = json.loads(path(folder, ".json").read_text())
    number = min(3 * examples.NUMBER, len(record["samples"]))
    assert len(page.all("article")) == number > examples.NUMBER
    assert len(page.all("figure")) == 4 * number
    assert path(folder, ".html").stat().st_size < 5e6


def test_report_of_an_earlier_test_is_the_same(tested, tmp_path):
    folder, options = tested
    output = tmp_path / "later.html"
    command = ["-m", "report", *options, "--output", str(output)]
    assert trainval_model.main(command) == 0
    assert output.read_bytes() == path(folder, ".html").read_bytes()


def test_examples_are_those_of_the_record(found):
    by_kind, record = found
    chosen = breakdown.choose(record["samples"], WITH_CRF, examples.NUMBER)
    assert {k: [one.row for one in some] for k, some in by_kind.items()} == chosen
    for example in sum(by_kind.values(), []):
        assert example.is_as_recorded
        assert example.true.sum() == example.row["area"]
        for kind in (WITHOUT_CRF, WITH_CRF):
            counts = compute_mask_IU(example.masks[kind], example.true)
            recorded = example.row[kind]
            wanted = recorded["intersection"] / recorded["union"]
            assert counts[0] / counts[1] == pytest.approx(wanted, abs=0.01)
            assert example.ious[kind] == counts[0] / counts[1]


def test_words_are_those_that_the_network_read(found):
    for example in sum(found[0].values(), []):
        assert " ".join(word.text for word in example.words) == example.row["sentence"]
        assert len(example.words) == example.row["words"]
        for word in example.words:
            assert sum(word.weights.values()) == pytest.approx(1, abs=1e-5)


def test_another_iou_than_the_recorded_one_is_seen(found):
    example = found[0]["best"][0]
    other = dict(example.row, **{WITH_CRF: {"intersection": 0, "union": 9}})
    wanted = example.ious[WITH_CRF] <= examples.NEAR
    assert example._replace(row=other).is_as_recorded == wanted


def test_samples_that_were_built_again_are_refused(tested, found):
    _, record = found
    for change in ({"sentence": "another"}, {"number": 999}, {"height": 63}):
        rows = [dict(row, **change) for row in record["samples"]]
        with pytest.raises(UserError, match="not those of the test"):
            find(tested, dict(record, samples=rows))


def test_without_samples_the_page_says_so(tested, tmp_path, capsys):
    folder, options = tested
    os.makedirs(str(tmp_path / "ckpts"))
    for name in os.listdir(str(folder)):
        shutil.copy(str(folder / name), str(tmp_path / "ckpts"))
    moved = [*options, "-f", str(tmp_path / "ckpts"), "--batches", str(tmp_path)]
    assert trainval_model.main(["-m", "report", *moved]) == 0
    assert "without examples: there are no samples" in capsys.readouterr().err
    text = path(tmp_path / "ckpts", ".html").read_text(encoding="utf-8")
    assert not Page(text).all("article")


# --- How they look


def weights(*values):
    return dict(zip(LSTM_model.WORD_CLASSES, values))


def grey_example(sentence="the man left", with_crf=True, recorded=(1, 2), name="a.jpg"):
    """Return a grey example of 10 x 20 pixels; DenseCRF moves the mask downwards."""
    true, before, after = np.zeros([3, 10, 20], bool)
    true[4:8], before[3:6], after[4:8] = True, True, True
    words = [
        Word("the", None, weights(0.1, 0.1, 0.1, 0.7)),
        Word("man", None, weights(0.9, 0.1, 0.0, 0.0)),
    ]
    counts = dict(zip(("intersection", "union"), recorded))
    own = row(7, sentence, area=80, iou=(2, 6))
    own.update({"height": 10, "width": 20, "image": name, WITH_CRF: counts})
    masks, ious = {WITHOUT_CRF: before}, {WITHOUT_CRF: 1 / 3}
    if with_crf:
        masks[WITH_CRF], ious[WITH_CRF] = after, 1.0
    image = np.full([10, 20, 3], GREY, np.uint8)
    return Example(own, image, true, masks, words, [sentence], ious)


def show(*some, kind="best"):
    return Page("<div>" + examples.show({kind: list(some), "random": []}) + "</div>")


def images(page):
    """Return alt -> uint8 [H, W, 3]."""
    found = {}
    for attributes, _ in page.all("img"):
        content = base64.b64decode(attributes["src"].split(",")[1])
        found[attributes["alt"]] = np.array(Image.open(io.BytesIO(content)))
    return found


def test_words_have_the_colour_of_their_class_and_all_numbers():
    page = show(grey_example())
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


def test_facts_of_a_grey_example():
    facts = show(grey_example(recorded=(1, 1))).all("p", **{"class": "faint"})
    assert [text for _, text in facts][1:] == [
        "IoU 33.3 % \u2192 100.0 % with DenseCRF \u00b7 object 40.0 % of the image "
        "\u00b7 number 7 \u00b7 a.jpg"
    ]
    facts = show(grey_example(with_crf=False, name="")).all("p", **{"class": "faint"})
    assert facts[1][1] == "IoU 33.3 % \u00b7 object 40.0 % of the image \u00b7 number 7"


@pytest.mark.parametrize("recorded, is_marked", [((1, 1), False), ((1, 2), True)])
def test_masks_that_are_not_those_of_the_test_are_marked(recorded, is_marked):
    page = show(grey_example(recorded=recorded))
    assert bool(page.all("strong")) == is_marked


def test_base_score_of_an_example_is_shown():
    one = grey_example(recorded=(1, 1))
    base = np.zeros([10, 20], bool)
    base[2:5] = True
    counts = {"intersection": 2, "union": 6}
    one = one._replace(
        row=dict(one.row, base=counts),
        masks=dict(one.masks, base=base),
        ious=dict(one.ious, base=1 / 3),
    )
    page = show(one)
    facts = page.all("p", **{"class": "faint"})[1][1]
    assert facts.startswith(
        "IoU 33.3 % of the base score \u2192 33.3 % \u2192 100.0 % with DenseCRF \u00b7"
    )
    changes = list(images(page))[3:]
    assert changes == [
        'What the last score changed for "the man left": 20 pixels added, 20 removed',
        'What DenseCRF changed for "the man left": 40 pixels added, 20 removed',
    ]
    assert one.is_as_recorded


def test_images_of_a_grey_example():
    page = show(grey_example())
    shown = images(page)
    about = '"the man left"'
    assert list(shown) == [
        f"The image of {about}",
        f"The true mask of {about}",
        f"The found mask of {about}",
        f"What DenseCRF changed for {about}: 40 pixels added, 20 removed",
    ]
    for image in shown.values():
        assert image.shape == (SHOWN // 2, SHOWN, 3)
    image, true, found, change = (p.astype(int) for p in shown.values())
    cell = SHOWN // 20
    here = {row: (row * cell + cell // 2, SHOWN // 2) for row in range(10)}
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
    empty = grey_example(with_crf=False)
    page = show(empty._replace(masks={WITHOUT_CRF: np.zeros([10, 20], bool)}))
    assert len(page.all("figure")) == 3
    assert page.all("figcaption")[2][1] == "found mask: empty"


def test_kinds_without_examples_are_left_out():
    assert [text for _, text in show(grey_example(), kind="worst").all("h3")] == [
        "The worst"
    ]


def test_hostile_sentences_and_names_are_shown():
    page = show(grey_example(HOSTILE, name=HOSTILE))
    page.check_harmless()
    assert HOSTILE in [text for _, text in page.all("span", title="was not read")]
    assert any(HOSTILE in attributes["alt"] for attributes, _ in page.all("img"))
    assert page.all("p", **{"class": "faint"})[1][1].endswith(HOSTILE)
