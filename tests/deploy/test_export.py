"""util.deploy.export: models that others can run give what the Predictor gives."""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL

import CMPC_model
import trainval_model
from util.deploy import export, image_ops
from util.graph import checkpoint
from util.graph.compat import tf
from util.graph.layers import l2_normalize
from util.inference.predictor import Predictor
from util.training.snapshots import Snapshots

LOAD = str(Path(__file__).parents[1] / "load_saved_model.py")
SIZES = (64, 64), (1, 1), (40, 90), (130, 67), (7, 200), (200, 190)
IMAGES = [recipe.image(seed, 200, 200)[:h, :w] for seed, (h, w) in enumerate(SIZES)]
SENTENCES = ["the red circle", "Left of the RED circle.", "É, w20 (on) a thing!"]
WORDS = "<pad> <go> <eos> <unk> the red circle left of on ,".split()
WORDS += [f"w{number}" for number in range(SMALL["vocab_size"] - len(WORDS))]


class Small(CMPC_model.LSTM_model):
    """Has what an export and a Predictor need of a model, and no more."""

    def __init__(self, inputs=None, **sizes):
        size = [sizes["H"], sizes["W"]]
        if inputs is None:
            inputs = {
                "words": tf.placeholder(tf.int32, [None, 20]),
                "im": tf.placeholder(tf.float32, [1, *size, 3]),
            }
        self.words, self.im = inputs["words"], inputs["im"]
        cells, channels = (sizes["vf_h"], sizes["vf_w"]), sizes["v_emb_dim"]
        with tf.variable_scope("text_objseg"):
            table = tf.get_variable("Variable", [sizes["vocab_size"], 300])
            tf.get_variable("words_parse_1/DW", [])  # by which CMPC is known
            tf.get_variable("c5_lateral/DW", [1, 1, 3, channels])
            tf.get_variable("rnn/conv_lstm_cell/W_ci", [*cells, sizes["mlp_dim"]])
        vectors = tf.nn.embedding_lookup(table, self.words)
        said = tf.reduce_sum(vectors, [1, 2])[:, tf.newaxis, tf.newaxis, tf.newaxis]
        seen = tf.reduce_mean(self.im, 3, keepdims=True) / 9
        self.image_parts = [seen]
        self.words_parse = tf.nn.softmax(vectors[..., :4])
        self.up = seen * said
        self.ups = dict.fromkeys(self.LOSS_WEIGHTS, self.up)
        self.sigm = tf.sigmoid(self.up)
        self.shown = self.to_show()


def save(folder, model_class):
    """Save the recipe's weights and a vocabulary beside them; return the folder."""
    with tf.Graph().as_default(), tf.Session() as session:
        model_class(**SMALL)
        networks.load_recipe(session)
        for variable in tf.global_variables():
            if variable.op.name == "text_objseg/score/biases":  # about half a mask
                session.run(tf.assign_add(variable, [0.3]))
        Snapshots(str(folder), "unc").save(session, 1)
    (folder / "vocabulary.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return save(tmp_path_factory.mktemp("snapshot"), Small)


def command(snapshot, output, *more, model_class=Small):
    """Run the command as if the network were `model_class`; return its exit code."""
    line = ["-m", "export", "-d", "unc", "-i", "1", "-f", snapshot]
    with mock.patch.object(CMPC_model, "LSTM_model", model_class):
        return trainval_model.main([*line, "--output", str(output), *more])


@pytest.fixture(scope="module")
def saved(snapshot, tmp_path_factory):
    """Return the folder of a SavedModel that refuses images above 9000 pixels."""
    output = tmp_path_factory.mktemp("export") / "saved"
    assert command(snapshot, output, "--max-pixels", "9000") == 0
    return output


@pytest.fixture(scope="module")
def wanted(snapshot):
    found = look(snapshot, Small)
    masks = [
        prediction.mask.ravel()
        for predictions, _ in found
        for prediction in predictions
    ]
    assert 0.1 < np.concatenate(masks).mean() < 0.9
    return found


def look(snapshot, model_class, images=IMAGES):
    """Return the Predictor's predictions and the ids of SENTENCES, by image."""
    found = []
    with mock.patch.object(CMPC_model, "LSTM_model", model_class):
        predictor = Predictor(checkpoint.path(snapshot, "unc", 1))
    with predictor:
        ids = np.stack([predictor.ids(sentence) for sentence in SENTENCES])
        for image in images:
            predictor.set_image(image)
            found.append((predictor.segment(SENTENCES), ids))
    return found


def assert_same(found, wanted):
    """Compare one image's results with the Predictor's: sums in another order."""
    predictions, ids = wanted
    for n, prediction in enumerate(predictions):
        mask, both = prediction.mask, prediction.mask & found["mask"][n]
        assert found["mask"][n].dtype == bool and mask.shape == both.shape
        assert both.sum() >= 0.999 * (mask | found["mask"][n]).sum()
        np.testing.assert_allclose(
            found["probability"][n], prediction.probability, atol=1e-5
        )
        weights = np.zeros([20, 4])
        words = [list(word.weights.values()) for word in prediction.words]
        weights[20 - len(words) :] = words
        np.testing.assert_allclose(found["word_weights"][n], weights, atol=1e-5)
    if "ids" in found:
        np.testing.assert_array_equal(found["ids"], ids)


def load_elsewhere(folder, scratch, images, **named):
    """Run a SavedModel in a process without our code; return its results by call."""
    calls = scratch / "calls.npz"
    arrays = {f"image_{n}": image for n, image in enumerate(images)}
    np.savez(str(calls), **arrays, **named)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, LOAD, str(folder / "1"), str(calls), str(scratch / "out.npz")],
        env=dict(environment, CUDA_VISIBLE_DEVICES="-1"),
        cwd=str(scratch),
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(str(scratch / "out.npz")) as file:
        found = [{} for _ in images]
        for key in file.files:
            number, name = key.split(" ")
            found[int(number)][name] = file[key]
    return found


def test_a_process_without_our_code_gets_the_masks(saved, wanted, tmp_path):
    found = load_elsewhere(saved, tmp_path, IMAGES[:5], sentences=SENTENCES)
    for results, want in zip(found, wanted):
        assert set(results) == {"mask", "probability", "word_weights", "ids"}
        assert_same(results, want)


class Serving:
    """A SavedModel's signature as a function, in this process."""

    def __init__(self, folder):
        self._session = tf.Session(graph=tf.Graph())
        loaded = tf.saved_model.load(self._session, ["serve"], str(folder / "1"))
        self.signature = loaded.signature_def["serving_default"]

    def __call__(self, **inputs):
        feed = {self.signature.inputs[name].name: inputs[name] for name in inputs}
        outputs = self.signature.outputs
        return self._session.run({name: outputs[name].name for name in outputs}, feed)


@pytest.fixture(scope="module")
def serving(saved):
    return Serving(saved)


def test_the_signature_is_one_that_rest_can_carry(serving, saved):
    """JSON has numbers, booleans and text; *_bytes would be read as base64."""

    def described(tensors):
        return {
            name: (
                tf.as_dtype(info.dtype).name,
                [side.size for side in info.tensor_shape.dim],
            )
            for name, info in tensors.items()
        }

    assert described(serving.signature.inputs) == {
        "image": ("uint8", [-1, -1, 3]),
        "sentences": ("string", [-1]),
    }
    assert described(serving.signature.outputs) == {
        "mask": ("bool", [-1, -1, -1]),
        "probability": ("float32", [-1, -1, -1]),
        "word_weights": ("float32", [-1, 20, 4]),
        "ids": ("int32", [-1, 20]),
    }
    assert sorted(os.listdir(str(saved))) == ["1", "model.json"]
    body = {"image": IMAGES[0].tolist(), "sentences": SENTENCES[:1]}
    body = json.loads(json.dumps({"inputs": body}))["inputs"]
    assert serving(**body)["mask"].shape == (1, 64, 64)


def test_the_vocabulary_is_an_asset_that_people_can_read(saved):
    lines = (saved / "1" / "assets" / "vocabulary.txt").read_text("utf-8").splitlines()
    assert lines[:6] == "<pad>\t0 <go>\t1 <eos>\t2 <unk>\t3 the\t4 red\t5".split(" ")
    assert len(lines) == SMALL["vocab_size"]


def test_what_the_model_refuses(serving):
    def refused(match, image=IMAGES[0], sentences=SENTENCES):
        with pytest.raises(tf.errors.InvalidArgumentError, match=match):
            serving(image=image, sentences=sentences)

    refused("sentence has no words", sentences=["the", " . "])
    refused("must have 1 to 9000 pixels", np.zeros([9001, 1, 3], np.uint8))
    refused("must have 1 to 9000 pixels", np.zeros([0, 5, 3], np.uint8))
    assert serving(image=np.zeros([9000, 1, 3]), sentences=["a"])["mask"].any(0).size


def test_ids_where_no_sentence_could_hold_a_word(snapshot, wanted, tmp_path, capsys):
    words = list(WORDS)
    words[-1] = "odd\x01"
    shutil.copytree(snapshot, str(tmp_path / "odd"))
    path = tmp_path / "odd" / "vocabulary.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    assert command(str(tmp_path / "odd"), tmp_path / "saved") == 0
    assert "takes ids: no sentence could hold the word 'odd\\x01'" in (
        capsys.readouterr().out
    )
    model = Serving(tmp_path / "saved")
    assert set(model.signature.inputs) == {"image", "ids"}
    assert_same(model(image=IMAGES[3], ids=wanted[3][1]), wanted[3])


def refusal(capsys, *line, code=2):
    """Return what a command that fails says; nothing is left of its output."""
    assert command(*line) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_an_output_that_is_there_is_left_alone(snapshot, saved, capsys):
    files = sorted(path.stat().st_mtime for path in saved.rglob("*"))
    assert "is there already" in refusal(capsys, snapshot, saved)
    assert sorted(path.stat().st_mtime for path in saved.rglob("*")) == files


def test_nothing_is_left_of_the_graph_of_an_export(snapshot, tmp_path):
    graphs = []

    class Seen(Small):
        def __init__(self, *args, **sizes):
            super().__init__(*args, **sizes)
            l2_normalize(tf.constant([[3.0, 4.0]]))  # TensorFlow keeps its gradient
            graphs.append(weakref.ref(tf.get_default_graph()))

    assert command(snapshot, tmp_path / "saved", model_class=Seen) == 0
    gc.collect()
    assert graphs and not any(graph() for graph in graphs)


def test_what_the_command_refuses(snapshot, tmp_path, capsys, monkeypatch):
    def refused(*more):
        return refusal(capsys, snapshot, tmp_path / "new" / "out", *more)

    assert "cannot use the name" in refusal(capsys, snapshot, tmp_path / "new" / "a[1]")

    short = tmp_path / "short.txt"
    short.write_text("\n".join(WORDS[:9]), encoding="utf-8")
    assert "knows 50: name its own" in refused("--vocabulary", str(short))
    assert "there is no snapshot" in refused("-i", "7")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    assert "pip install -e '.[export]'" in refused("--format", "onnx")
    monkeypatch.setattr(export, "_save", mock.Mock(side_effect=OSError(28, "full")))
    assert "full" in refused()
    assert sorted(os.listdir(str(tmp_path))) == ["new", "short.txt"]
    assert os.listdir(str(tmp_path / "new")) == []


@pytest.fixture(scope="module")
def onnx_folder(snapshot, tmp_path_factory):
    output = tmp_path_factory.mktemp("export") / "onnx"
    assert command(snapshot, output, "--format", "onnx") == 0
    return output


def run_onnx(folder, image, ids):
    import onnxruntime

    path = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {i.name: i.type for i in session.get_inputs()} == {
        "image": "tensor(uint8)",
        "ids": "tensor(int32)",
    }
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image, "ids": ids})))


def test_onnx_gives_the_masks(onnx_folder, wanted):
    for image, want in zip(IMAGES, wanted):
        found = run_onnx(onnx_folder, image, want[1])
        assert set(found) == {"mask", "probability", "word_weights"}
        assert_same(found, want)
    assert (onnx_folder / "vocabulary.txt").read_text("utf-8").split() == WORDS
    about = json.loads((onnx_folder / "model.json").read_text("utf-8"))
    assert about["checked"]["iou"] >= 0.999


def test_an_onnx_model_that_differs_is_not_written(
    onnx_folder, snapshot, tmp_path, capsys, monkeypatch
):
    import tf2onnx

    def convert(*_, output_path, **__):
        with open(str(onnx_folder / "model.onnx"), "rb") as file:
            Path(output_path).write_bytes(file.read())

    monkeypatch.setattr(tf2onnx.convert, "from_graph_def", convert)
    resize = image_ops.resize_and_crop
    monkeypatch.setattr(image_ops, "resize_and_crop", lambda *args: 0.9 * resize(*args))
    line = snapshot, tmp_path / "out", "--format", "onnx"
    assert "nothing was written" in refusal(capsys, *line, code=1)
    assert not (tmp_path / "out").exists()


def test_an_export_needs_a_snapshot_and_an_output(capsys):
    with pytest.raises(SystemExit):
        trainval_model.main("-m export -f somewhere".split())
    assert "-m export needs -f DIR and --output DIR" in capsys.readouterr().err
