"""util.inference: a Predictor gives what the network of its snapshot gives."""

import re
from pathlib import Path
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model
from PIL import Image

from util import checkpoint, im_processing, inference
from util.compat import tf
from util.errors import UserError
from util.inference import Predictor

PICTURES = [recipe.image(seed, *size) for seed, size in ((1, (64, 64)), (2, (40, 90)))]
WORDS = [recipe.words(seed, n, vocab=50)[0] for seed, n in ((1, 5), (2, 1))]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Return (path of a snapshot, logits and probability by picture and sentence)."""
    folder = str(tmp_path_factory.mktemp("snapshot"))
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(**SMALL)
        networks.load_recipe(session)
        path = checkpoint.Snapshots(folder, "unc").save(session, 1)
        found = {}
        for p, picture in enumerate(PICTURES):
            image = im_processing.fit_picture(picture, 64, 64)
            image = im_processing.to_network_input(image)
            for w, words in enumerate(WORDS):
                feed = {model.im: [image], model.words: [words]}
                found[p, w] = session.run([model.up, model.sigm], feed)
        return path, found


@pytest.fixture(scope="module")
def predictor(wanted):
    with Predictor(LSTM_model, wanted[0]) as predictor:
        yield predictor


def test_segments_many_sentences_of_many_pictures(predictor, wanted, monkeypatch):
    assert predictor.vocab_size == 50
    for chunk in (inference.CHUNK, 1):
        monkeypatch.setattr(inference, "CHUNK", chunk)
        for p, picture in enumerate(PICTURES):
            predictor.set_image(picture)
            assert predictor.image.shape == (64, 64, 3)
            found = predictor.segment(WORDS)
            assert found[0].shape == found[1].shape == (len(WORDS), 64, 64)
            for w in range(len(WORDS)):
                logits, probability = wanted[1][p, w]
                # The same sums in another order.
                error = np.abs(found[0][w] - logits[0, :, :, 0]).max()
                assert error <= 1e-5 * np.abs(logits).max()
                np.testing.assert_allclose(
                    found[1][w], probability[0, :, :, 0], atol=1e-5
                )


def test_the_backbone_looks_at_a_picture_once(predictor):
    predictor.set_image(PICTURES[0])
    with mock.patch.object(
        im_processing, "to_network_input", wraps=im_processing.to_network_input
    ) as looks:
        predictor.set_image(PICTURES[0].copy())
        assert looks.call_count == 0
        predictor.set_image(PICTURES[1])
        predictor.set_image(PICTURES[0])
        assert looks.call_count == 2


def test_example_of_readme(wanted, tmp_path, monkeypatch):
    readme = Path(__file__).resolve().parent.parent / "README.md"
    (code,) = re.findall(
        r"^```python\n(.*?)^```", readme.read_text("utf-8"), re.S | re.M
    )
    (named,) = re.findall(r'"(ckpts/.*?)"', code)
    monkeypatch.chdir(str(tmp_path))
    (tmp_path / "data").mkdir()
    words = ["<pad>", "<go>", "<eos>", "<unk>", "the", "red", "circle"]
    (tmp_path / "data" / "vocabulary_shapes.txt").write_text("\n".join(words))
    Image.fromarray(PICTURES[1]).save("picture.jpg")
    found = {}
    exec(compile(code.replace(named, wanted[0]), "README.md", "exec"), found)
    assert found["mask"].shape == (40, 90) and found["mask"].dtype == bool
    assert found["probabilities"].shape == (2, 64, 64)


def test_snapshot_of_another_network_is_refused(wanted, tmp_path):
    """Its table, lateral and peephole tell sizes, and nothing else is there."""
    reader = tf.train.NewCheckpointReader(wanted[0])
    names = ("Variable", "c5_lateral/DW", "rnn/conv_lstm_cell/W_ci")
    with tf.Graph().as_default(), tf.Session() as session:
        for name in names:
            name = "text_objseg/" + name
            tf.get_variable(name, initializer=reader.get_tensor(name))
        session.run(tf.global_variables_initializer())
        path = checkpoint.Snapshots(str(tmp_path), "unc").save(session, 1)
    with pytest.raises(UserError, match="does not fit the network: conv1/weights"):
        Predictor(LSTM_model, path)
