"""Twenty scenes of `shapes`: the same masks from all ways to segment them.

The backbone is shrunk to a unit a block, for time; nothing else is left out.
"""

import contextlib

import numpy as np
import pytest
from networks import LSTM_model, small_backbone
from PIL import Image
from pycocotools import mask as coco_mask
from test_export import load_elsewhere, run_onnx

import trainval_model
from util.bench import load_test
from util.data import annotations, datasets, im_processing, shapes
from util.data.build import build_samples
from util.data.data_reader import DataReader
from util.data.referent import Referent
from util.deploy import server
from util.evaluation import evaluate
from util.inference import predict
from util.inference.predictor import Predictor

SCENES = 20


@pytest.fixture(scope="module", autouse=True)
def small():
    with small_backbone(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the data folder, with SCENES scenes of the split test."""
    folder = str(tmp_path_factory.mktemp("scenes") / "data")
    shapes.draw(folder, num_scenes={"train": 1, "val": 1, "test": SCENES})
    build_samples(datasets.get("shapes", folder), "test", size=64)
    return folder


@pytest.fixture(scope="module")
def scenes(data):
    """Return (path of the image, sentence, sample), one for each scene."""
    folder = datasets.get("shapes", data).sample_dir("test")
    with DataReader(folder, "shapes_test", shuffle=False) as reader:
        samples = [reader.read_batch() for _ in range(reader.num_batch)]
    chosen = {}
    for referent in annotations.referents(datasets.get("shapes", data), "test"):
        chosen.setdefault(referent.image, referent.sentences[-1])
    by_sentence = {
        (sample["im_name_batch"][0], sample["sent_batch"][0]): sample
        for sample in samples
    }
    found = []
    for path, sentence in chosen.items():
        name = Referent("", path, []).image_name
        found.append((path, sentence, by_sentence[name, sentence]))
    assert len(found) == SCENES
    return found


@pytest.fixture(scope="module")
def snapshot(scenes, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("network"))
    questions = [(path, sentence) for path, sentence, _ in scenes]
    return load_test.draw_network(LSTM_model, folder, questions)


@pytest.fixture(scope="module")
def wanted(snapshot, scenes):
    """Return the masks of the Predictor."""
    masks = []
    with Predictor(snapshot) as predictor:
        for path, sentence, _ in scenes:
            predictor.set_image(path)
            masks.append(predictor.segment(sentence).mask)
    shares = [mask.mean() for mask in masks]
    assert 0.4 < np.mean(shares) < 0.6 and np.std(shares) > 0.01
    return masks


def assert_same(found, wanted):
    """Sums in another order may turn a pixel that lies on the border."""
    assert len(found) == len(wanted) == SCENES
    for one, other in zip(found, wanted):
        assert one.dtype == bool and one.shape == other.shape
        assert (one & other).sum() >= 0.999 * (one | other).sum()


def test_testing(snapshot, scenes, wanted):
    samples = [(n, sample) for n, (*_, sample) in enumerate(scenes)]
    with Predictor(snapshot) as predictor:
        results = list(evaluate.find_masks([predictor], samples))
    assert_same([r.masks[evaluate.WITHOUT_CRF] for r in results], wanted)


def test_predict(snapshot, scenes, wanted, tmp_path):
    queries = [predict.Query(path, sentence) for path, sentence, _ in scenes]
    with Predictor(snapshot) as predictor:
        rows = predict.predict(predictor, queries, str(tmp_path))
    masks = []
    for row in rows:
        with Image.open(str(tmp_path / row["mask"])) as file:
            masks.append(np.array(file) == 255)
    assert_same(masks, wanted)


def test_the_page(snapshot, scenes, wanted):
    service = server.Service(Predictor(snapshot))
    with contextlib.closing(service):
        records = [
            service.answer(path, sentence).record for path, sentence, _ in scenes
        ]
    masks = [coco_mask.decode(record["mask"]) > 0 for record in records]
    assert_same(masks, wanted)


def export(snapshot, output, form):
    folder = snapshot[: snapshot.rindex("/")]
    line = "-m export -d shapes -i 1 -f {} --output {} --format {}"
    assert trainval_model.main(line.format(folder, output, form).split()) == 0


def test_saved_model(snapshot, scenes, wanted, tmp_path):
    export(snapshot, tmp_path / "saved", "savedmodel")
    images = [im_processing.read_image(path) for path, *_ in scenes]
    sentences = list(dict.fromkeys(sentence for _, sentence, _ in scenes))
    found = load_elsewhere(
        tmp_path / "saved", tmp_path, images, sentences=np.array(sentences)
    )
    masks = [
        results["mask"][sentences.index(sentence)]
        for results, (_, sentence, _) in zip(found, scenes)
    ]
    assert_same(masks, wanted)


def test_onnx(snapshot, scenes, wanted, tmp_path):
    export(snapshot, tmp_path / "onnx", "onnx")
    masks = [
        run_onnx(
            tmp_path / "onnx",
            im_processing.read_image(path),
            sample["text_batch"][np.newaxis].astype(np.int32),
        )["mask"][0]
        for path, _, sample in scenes
    ]
    assert_same(masks, wanted)
