"""Every model goes through all commands, and a snapshot of it needs no -n."""

import contextlib
import json
import shutil
import urllib.request
from typing import Any, List, NamedTuple
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
import runs
import toy_model
from pages import Page
from PIL import Image

import trainval_model
from CMPC_model import LSTM_model
from util import models
from util.bench import measurements, scaling
from util.deploy import server
from util.graph import checkpoint
from util.graph.compat import tf
from util.inference import visualize
from util.inference.predictor import Predictor
from util.models import base
from util.training import progress, start

SENTENCE = "the red circle"
# CMPC_model goes through them in other files.
NAMES = ("toy_model", "RRN_model", "STEP_model")


@contextlib.contextmanager
def toy():
    """Know the toy model, with a small backbone and a line of the log each step."""
    with contextlib.ExitStack() as stack:
        names = dict(models.MODELS, toy_model="toy_model")
        stack.enter_context(mock.patch.dict(models.MODELS, names))
        stack.enter_context(mock.patch.object(progress, "EVERY", 1))
        stack.enter_context(mock.patch.object(start, "CALIBRATION_IMAGES", 2))
        stack.enter_context(networks.small_backbone())
        yield


@pytest.fixture(autouse=True)
def known():
    with toy():
        yield


FOLDS = ["--folds", "2"]


def folds(model):
    """Return how many rounds a model, or one of this name, is trained with here."""
    return 2 if "STEP_model" in (model, getattr(model, "NAME", "")) else 1


def rounds(model):
    """Return the names of what a model shows besides the mask."""
    return ["heat_1", "round_1", "heat_2", "answer"] if folds(model) > 1 else []


class Trained(NamedTuple):
    """A run: 2 steps, and 2 more after it was resumed."""

    model: Any
    folder: Any
    options: List[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.build(tmp_path_factory.mktemp("data"), jobs=1)


@pytest.fixture(scope="module", params=NAMES)
def trained(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = ["-d", "shapes", "-f", str(folder), *data, "-g", "-1"]
    train = ["-m", "train", *runs.TINY, *options, "-n", request.param, "-bs", "2"]
    train += ["--keep-prob-emb", "0.9", "-s", "2", *FOLDS * (folds(request.param) > 1)]
    with toy():
        assert trainval_model.main([*train, "-st", "2"]) == 0
        assert trainval_model.main([*train, "-st", "4", "--resume"]) == 0
        return Trained(models.load(request.param), folder, options)


def run(trained, mode, *more):
    """Run a command without -n; return its exit code."""
    return trainval_model.main(["-m", mode, *trained.options, *more])


@pytest.fixture
def snapshot(trained):
    return checkpoint.path(str(trained.folder), "shapes", 4)


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / "image.png")
    Image.fromarray(recipe.image(1, 50, 70)).save(path)
    return path


def test_training_leaves_its_own_names_and_losses(trained, snapshot):
    model, shapes = trained.model, checkpoint.shapes(snapshot)
    head = {name for name in shapes if name.startswith("text_objseg/")}
    assert {model.SIGNATURE, model.WORD_TABLE, model.STEP_COUNTER} <= head
    assert f"text_objseg/{model.WORD_TABLE}/Adam" in head
    counter = model.STEP_COUNTER
    assert checkpoint.read(snapshot, [counter]) == {counter: 4}
    others = {LSTM_model.STEP_COUNTER, toy_model.LSTM_model.STEP_COUNTER} - {counter}
    assert (others & head) <= {model.WORD_TABLE}
    log = runs.read_log(trained.folder)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    losses = {key for line in log for key in line if key.startswith("loss")}
    rounds = {f"loss_round_{n}" for n in range(1, folds(model))}
    assert losses == {"loss", "loss_avg", "loss_all"} | rounds
    for line in log:
        mean = np.mean([line[name] for name in {"loss"} | rounds])
        np.testing.assert_allclose(line["loss_all"], mean, rtol=1e-5)
    network = json.loads((trained.folder / "run.json").read_text())["network"]
    assert (network["v_emb_dim"], network["mlp_dim"]) == (16, 8)
    assert set(network) <= set(model.Arguments._fields)
    state = checkpoint.read_state(snapshot)
    assert state["options"] == ({"folds": 2} if folds(model) > 1 else {})


def test_snapshot_tells_the_model(trained, snapshot):
    model_class, sizes = models.of_snapshot(snapshot)
    assert model_class is trained.model
    assert (sizes["H"], sizes["vf_w"], sizes["mlp_dim"]) == (64, 8, 8)
    assert sizes.get("folds", 1) == folds(model_class)


def test_other_run_begins_with_its_weights(trained, snapshot, tmp_path):
    """Its state is not needed: the other run has options of its own."""
    copy = str(tmp_path / "copy.tfmodel")
    for end in (checkpoint.INDEX, checkpoint.DATA):
        shutil.copy(snapshot + end, copy + end)
    train = ["-m", "train", "-t", "train", *trained.options, "-f", str(tmp_path)]
    train += ["-n", trained.model.NAME, "--init-from", copy, "-st", "1"]
    train += FOLDS * (folds(trained.model) > 1)
    assert trainval_model.main([*train, "-lr", "1e-9", "--seed", "1"]) == 0
    found, wanted = runs.values(tmp_path, 1), runs.values(trained.folder, 4)
    assert found[trained.model.STEP_COUNTER] == 1
    for name in filter(trained.model.is_weight, wanted):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "more, told",
    [
        (["-emb"], "{}"),
        (
            ["-n", "CMPC_model", "--init-from", "SNAPSHOT"],
            "not of CMPC_model: choose -n {}",
        ),
        (["-n", "CMPC_model", "--resume"], "not of CMPC_model: choose -n {}"),
    ],
)
def test_what_training_refuses(trained, snapshot, tmp_path, capsys, more, told):
    name = trained.model.NAME
    if more == ["-emb"]:
        told = "{} takes no word vectors: leave out -emb"
        if "glove" in trained.model.Arguments._fields:
            told = "cannot read the word vectors"
    train = ["-m", "train", *runs.TINY, *trained.options, "-n", name, "-st", "6"]
    train += ["-f", str(tmp_path / "new")] * ("--resume" not in more)
    more = [snapshot if word == "SNAPSHOT" else word for word in more]
    assert trainval_model.main([*train, *more]) == 2
    error = capsys.readouterr().err
    assert told.format(name) in error and error.count("\n") == 1


@pytest.mark.parametrize("mode", ["test", "predict", "export", "serve"])
def test_wrong_name_is_refused(trained, snapshot, image, tmp_path, capsys, mode):
    more = {
        "test": ["-t", "val"],
        "predict": ["--image", image, "--text", "x", "--output", str(tmp_path / "x")],
        "export": ["--output", str(tmp_path / "x")],
        "serve": ["--port", str(scaling.free_ports(1)[0])],
    }[mode]
    if mode == "serve":
        pytest.importorskip("gradio")
    assert run(trained, mode, "-n", "CMPC_model", *more) == 2
    error = capsys.readouterr().err
    assert f"{snapshot} is a checkpoint of {trained.model.NAME}, not of" in error
    assert error.count("\n") == 1


def test_tested_and_reported(trained, snapshot):
    assert run(trained, "test", "-t", "val", "--per-sample") == 0
    record = json.loads(open(snapshot + ".val.json").read())
    assert record["model"] == trained.model.NAME
    assert record["results"]["without DenseCRF"]["count"] == len(record["samples"])
    pytest.importorskip("matplotlib")
    assert run(trained, "report", "-t", "val") == 0
    page = Page(open(snapshot + ".val.html", encoding="utf-8").read())
    page.check_harmless()
    articles = page.all("article")
    assert articles and not page.all("p", class_="legend")
    attended = [
        one for one in page.all("span") if "attention" in one[0].get("title", "")
    ]
    assert bool(attended) == (folds(trained.model) > 1)
    captions = [text for _, text in page.all("figcaption")]
    for name in rounds(trained.model):
        assert captions.count(name) == len(articles)


def test_predicted(trained, image, tmp_path):
    output = tmp_path / "found"
    more = ["--image", image, "--text", SENTENCE, "--output", str(output)]
    assert run(trained, "predict", *more) == 0
    (row,) = runs.read_log(output, "predictions.jsonl")
    assert [word["text"] for word in row["words"]] == SENTENCE.split()
    assert all(word["weights"] == {} for word in row["words"])
    assert all(word["class"] is None for word in row["words"])
    if folds(trained.model) == 1:
        assert "rounds" not in row and "attention" not in row["words"][0]
        return
    shares = np.array([word["attention"] for word in row["words"]])
    assert shares.shape == (3, 2) and shares.min() > 0
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    drawn = np.array(Image.open(str(output / row["rounds"])))
    assert drawn.shape[1] == 2 * visualize.MAP_SIDE + 3 * (visualize.MAP_SIDE // 20)
    assert drawn.std() > 10


def test_served(trained, snapshot, image):
    service = server.Service(Predictor(snapshot))
    answer = service.answer(image, SENTENCE)
    levels = rounds(trained.model)
    assert list(service.levels) == list(answer.prediction.levels) == levels
    word = answer.record["words"][1]
    assert len(word.pop("attention", [])) == (2 if levels else 0)
    assert word == {
        "text": "red",
        "known": True,
        "class": None,
        "weights": {},
    }
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    (port,) = scaling.free_ports(1)
    with server.serving(service, "127.0.0.1", port) as url:
        assert urllib.request.urlopen(url).status == 200
        call = Client(url, verbose=False)
        record = call.predict(handle_file(image), SENTENCE, False, api_name="/segment")
        assert record["mask"] == answer.record["mask"]
        shown = call.predict(handle_file(image), SENTENCE, False, api_name="/show")
        assert "red" in str(shown)
        assert ("attention: " in str(shown)) == bool(levels)
    service.close()


def test_exported(trained, snapshot, image, tmp_path):
    output = tmp_path / "saved"
    assert run(trained, "export", "--output", str(output)) == 0
    about = json.loads((output / "model.json").read_text())
    chosen = {"folds": 2} if folds(trained.model) > 1 else {}
    assert (about["model"], about["options"]) == (trained.model.NAME, chosen)
    wanted = {"mask", "probability", "ids"}
    wanted |= {"attention"} if folds(trained.model) > 1 else set()
    assert set(about["outputs"]) == wanted
    pixels = np.array(Image.open(image))
    with tf.Graph().as_default(), tf.Session() as session:
        saved = tf.saved_model.load(session, ["serve"], str(output / "1"))
        signature = saved.signature_def["serving_default"]
        feed = {
            signature.inputs["image"].name: pixels,
            signature.inputs["sentences"].name: [SENTENCE],
        }
        found = session.run(signature.outputs["probability"].name, feed)
    with Predictor(snapshot) as predictor:
        predictor.set_image(pixels)
        wanted = predictor.segment(SENTENCE).probability
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_name_of_an_older_release(trained, snapshot, tmp_path):
    """It is tested and reported under its own name."""
    old = str(tmp_path / "shapes_deeplab_LSTM_iter_4.tfmodel")
    for end in (checkpoint.INDEX, checkpoint.DATA, checkpoint.STATE):
        shutil.copy(snapshot + end, old + end)
    assert run(trained, "test", "-t", "val", "-f", str(tmp_path), "--per-sample") == 0
    record = json.loads(open(old + ".val.json").read())
    assert record["snapshot"] == old and record["model"] == trained.model.NAME
    pytest.importorskip("matplotlib")
    assert run(trained, "report", "-t", "val", "-f", str(tmp_path), "-i", "4") == 0
    assert "snapshot " + old in open(old + ".val.html", encoding="utf-8").read()


def test_measured(trained, tmp_path):
    sizes = measurements.Sizes(
        network=dict(vocab_size=50, mlp_dim=8, v_emb_dim=16, **base.grid_sizes(64, 64)),
        image=(60, 90),
        product=64,
        runs=1,
    )
    setup = measurements.Setup(model=trained.model.NAME, sizes=sizes)
    snapshot = measurements.make_snapshot(setup, str(tmp_path))
    assert models.of_snapshot(snapshot)[0] is trained.model
    assert measurements.testing(setup, snapshot, 2, False)["sentences_per_s"] > 0
    steps = measurements.training_steps(setup, str(tmp_path), 2, False)
    assert steps["sentences_per_s"] > 0


def test_models_do_not_share_their_names():
    assert toy_model.LSTM_model.words_parse is None
    assert not hasattr(toy_model.LSTM_model.Arguments(), "glove")
    assert LSTM_model.STEP_COUNTER != toy_model.LSTM_model.STEP_COUNTER
    assert toy_model.LSTM_model.is_weight("text_objseg/Variable_1")
    assert not toy_model.LSTM_model.is_weight("text_objseg/Variable")
