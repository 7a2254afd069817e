"""ONNX models of the other networks, and of CMPC's variants, give what the graph gives.

CMPC's own is in test_export.py. The backbone is shrunk to a unit a block, for time.
"""

import json

import numpy as np
import pytest
from networks import small_backbone
from test_export import run_onnx

import trainval_model
from util import models
from util.bench import load_test
from util.data import im_processing
from util.inference.predictor import Predictor

SENTENCES = ["the red circle", "the small square left of the blue circle"]
# Sums in another order; "edges" reads the image's values, see models/test_variants.py:
# 5.2e-5 was seen.
TOLERANCE, OF_EDGES = 1e-5, 2e-4
NETWORKS = [
    ("CMPC_model", {"refine": "edges"}),
    ("CMPC_model", {"second_pass": "affinity"}),
    ("RRN_model", {}),
    ("STEP_model", {"folds": 2}),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with small_backbone():
        yield


@pytest.mark.parametrize("name, options", NETWORKS, ids=str)
def test_onnx_gives_the_masks_of_the_graph(name, options, tmp_path):
    paths = load_test.draw_images(str(tmp_path))[:2]
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    questions = [(path, sentence) for path in paths for sentence in SENTENCES]
    model = models.load(name)
    snapshot = load_test.draw_network(model, str(drawn), questions, **options)
    output = tmp_path / "onnx"
    line = f"-m export -d shapes -i 1 -f {drawn} --output {output} --format onnx"
    assert trainval_model.main(line.split()) == 0
    about = json.loads((output / "model.json").read_text("utf-8"))
    assert about["checked"]["iou"] >= 0.999
    with Predictor(snapshot) as predictor:
        assert predictor.options == options
        ids = np.stack([predictor.ids(sentence) for sentence in SENTENCES])
        for path in paths:
            predictor.set_image(path)
            found = run_onnx(output, im_processing.read_image(path), ids)
            allowed = OF_EDGES if "refine" in options else TOLERANCE
            compare(found, predictor.segment(SENTENCES), allowed)


def compare(found, wanted, allowed):
    """Compare one image's masks, probabilities and what is told of the words."""
    for n, one in enumerate(wanted):
        both, either = one.mask & found["mask"][n], one.mask | found["mask"][n]
        assert 0 < both.mean() < 1 and both.sum() >= 0.999 * either.sum()
        wanted_of = {"probability": one.probability}
        found_of = {"probability": found["probability"][n]}
        words = slice(-len(one.words), None)
        if one.words[0].weights:
            wanted_of["classes"] = [list(word.weights.values()) for word in one.words]
            found_of["classes"] = found["word_weights"][n, words]
        if one.words[0].attention:
            wanted_of["attention"] = np.transpose([x.attention for x in one.words])
            found_of["attention"] = found["attention"][n, :, words]
        assert len(found_of) == len(found) - 1
        for name, values in wanted_of.items():
            error = np.abs(found_of[name] - values).max()
            assert error <= allowed, (name, error)
