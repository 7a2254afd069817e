"""util.evaluation.cases, and from -m test --report to the page, in small."""

import json
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import runs
from pages import Page
from scipy.special import expit

import trainval_model
from CMPC_model import LSTM_model
from util.core.errors import UserError
from util.data import im_processing
from util.evaluation import breakdown, cases, evaluate
from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF, compute_mask_IU
from util.inference.predictor import Outputs

SIDE = 64


class Network:
    """A predictor that finds what is brighter than the last word of the sentence."""

    vocab_size = 50

    def __init__(self, model_class, snapshot, precision):
        assert model_class is LSTM_model and precision == "float32"
        assert snapshot.endswith("shapes_iter_1.tfmodel")

    def set_image(self, image):
        self.image = im_processing.fit_image(image, SIDE, SIDE)

    def find(self, ids):
        limits = 60 + 7 * (ids[:, -1] % 20)
        brightness = self.image.mean(axis=2)
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
    (folder / "ckpts" / "shapes_iter_1.tfmodel.index").touch()
    options = ["-d", "shapes", "-t", "val", "-i", "1", "-f", str(folder / "ckpts")]
    options += [*data, "-g", "-1"]
    command = ["-m", "test", "-c", "--crf-jobs", "1", "--report"]
    with mock.patch.object(evaluate, "Predictor", Network):
        with mock.patch.object(cases, "Predictor", Network):
            assert trainval_model.main(command + options) == 0
            yield folder / "ckpts", options


def path(folder, ending):
    return folder / ("shapes_iter_1.tfmodel.val" + ending)


@pytest.fixture(scope="module")
def found(tested):
    """Return the cases of the record."""
    folder, options = tested
    args = trainval_model.parse(["-m", "report", *options])
    record = breakdown.read_record(str(path(folder, ".json")))
    return cases.find(LSTM_model, record, args), record


def test_page_of_a_test_has_its_cases(tested):
    folder, _ = tested
    page = Page(path(folder, ".html").read_text(encoding="utf-8"))
    page.check_harmless()
    record = json.loads(path(folder, ".json").read_text())
    number = min(3 * cases.NUMBER, len(record["samples"]))
    assert len(page.all("article")) == number > cases.NUMBER
    assert len(page.all("figure")) == 4 * number
    assert path(folder, ".html").stat().st_size < 5e6


def test_report_of_an_earlier_test_is_the_same(tested, tmp_path):
    folder, options = tested
    output = tmp_path / "later.html"
    command = ["-m", "report", *options, "--output", str(output)]
    assert trainval_model.main(command) == 0
    assert output.read_bytes() == path(folder, ".html").read_bytes()


def test_cases_are_those_of_the_record(found):
    by_kind, record = found
    chosen = breakdown.choose(record["samples"], WITH_CRF, cases.NUMBER)
    assert {k: [c.row for c in some] for k, some in by_kind.items()} == chosen
    for case in sum(by_kind.values(), []):
        assert case.is_as_recorded
        assert case.true.sum() == case.row["area"]
        for title in (WITHOUT_CRF, WITH_CRF):
            counts = compute_mask_IU(case.masks[title], case.true)
            recorded = case.row[title]
            wanted = recorded["intersection"] / recorded["union"]
            assert counts[0] / counts[1] == pytest.approx(wanted, abs=0.01)
            assert case.ious[title] == counts[0] / counts[1]


def test_words_are_those_that_the_network_read(found):
    for case in sum(found[0].values(), []):
        assert " ".join(word.text for word in case.words) == case.row["sentence"]
        assert len(case.words) == case.row["words"]
        for word in case.words:
            assert sum(word.weights.values()) == pytest.approx(1, abs=1e-5)


def test_another_iou_than_the_recorded_one_is_seen(found):
    case = found[0]["best"][0]
    other = dict(case.row, **{WITH_CRF: {"intersection": 0, "union": 9}})
    wanted = case.ious[WITH_CRF] <= cases.NEAR
    assert case._replace(row=other).is_as_recorded == wanted


def test_the_last_weights_belong_to_the_words():
    weights = np.zeros([5, 4], np.float32)
    weights[3, 1], weights[4, 2] = 1, 1
    words = cases.seen_words("Red left man.", weights, 2)
    assert [word.text for word in words] == ["red", "left", "man"]
    assert words[0].weights["attribute"] == 1 and words[1].weights["relation"] == 1
    assert words[2].weights is None


def test_samples_that_were_built_anew_are_refused(tested, found):
    _, options = tested
    args = trainval_model.parse(["-m", "report", *options])
    _, record = found
    for change in ({"sentence": "another"}, {"number": 999}, {"height": 63}):
        rows = [dict(row, **change) for row in record["samples"]]
        with pytest.raises(UserError, match="not those of the test"):
            cases.find(LSTM_model, dict(record, samples=rows), args)


def test_without_samples_the_page_says_so(tested, tmp_path, capsys):
    folder, options = tested
    os.makedirs(str(tmp_path / "ckpts"))
    for name in os.listdir(str(folder)):
        shutil.copy(str(folder / name), str(tmp_path / "ckpts"))
    moved = [*options, "-f", str(tmp_path / "ckpts"), "--batches", str(tmp_path)]
    assert trainval_model.main(["-m", "report", *moved]) == 0
    assert "without cases: there are no samples" in capsys.readouterr().err
    text = path(tmp_path / "ckpts", ".html").read_text(encoding="utf-8")
    assert not Page(text).all("article")
