"""A program of TensorFlow 2 that uses a Predictor or a network stays as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe
import runs
from networks import small_backbone

from CMPC_model import Predictor
from util.data import datasets
from util.graph.compat import tf

HERE = Path(__file__).resolve().parent.parent
MODERN = int(tf.VERSION.split(".")[0]) >= 2
needs_eager_mode = pytest.mark.skipif(not MODERN, reason="TensorFlow 1 has none")
SENTENCES = ["the red circle", "square"]

IS_AS_IT_WAS = """
import ctypes, logging, os, sys, threading
import numpy as np
import tensorflow as tf

loaded = []
load = ctypes.CDLL
ctypes.CDLL = lambda name, *rest, **how: loaded.append(name) or load(name, *rest, **how)

def settings():
    assert "libc.so.6" not in loaded, "glibc's allocator"
    return (
        tf.executing_eagerly(),
        tf.compat.v1.resource_variables_enabled(),
        tf.compat.v1.control_flow_v2_enabled(),
        type(tf.zeros([2]).shape[0]),
        tf.get_logger().level,
        dict(os.environ),
    )

def is_as_it_was():
    assert settings() == before
    assert float(tf.constant(1.0) + 1) == 2
    variable = tf.Variable([1.0, 2.0])
    variable[0].assign(5.0)
    assert variable.numpy().tolist() == [5, 2]

    @tf.function
    def doubled(x):
        return tf.while_loop(lambda x: x < 100, lambda x: [2 * x], [x])[0]

    assert float(doubled(tf.constant(1.0))) == 128
    inputs = np.random.RandomState(0).normal(size=[64, 2]).astype("float32")
    wanted = inputs @ np.float32([[2], [-1]])
    network = tf.keras.Sequential([tf.keras.layers.Dense(1, use_bias=False)])
    network.compile(tf.keras.optimizers.SGD(0.3), "mse")
    network.fit(inputs, wanted, epochs=20, verbose=0)
    assert np.allclose(network.predict(inputs, verbose=0), wanted, atol=0.05)
    assert [int(x) for x in tf.data.Dataset.range(3)] == [0, 1, 2]

before = settings()
is_as_it_was()
sys.path[:0] = sys.argv[1:3]
"""
PREDICTION = """
from CMPC_model import Predictor
is_as_it_was()
import networks
picture, sentences = np.load(sys.argv[4]), sys.argv[6:]
found = []

def predict():
    with Predictor(sys.argv[3]) as predictor:
        predictor.set_image(picture)
        found.append([one.probability for one in predictor.segment(sentences)])

def ends(work):
    def watched():
        work()
        ended.append(work)
    return watched

with networks.small_backbone():
    predict()
    is_as_it_was()
    ended = []
    works = [predict, is_as_it_was, predict, is_as_it_was]
    threads = [threading.Thread(target=ends(work)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert len(ended) == len(works)
is_as_it_was()
np.save(sys.argv[5], np.array(found))
"""
BY_HAND = """
from CMPC_model import LSTM_model
import networks

def run(session, model):
    session.run(tf.compat.v1.global_variables_initializer())
    fed = {model.words: np.ones([1, 20]), model.im: np.zeros([1, 64, 64, 3])}
    return session.run(model.sigm, fed).shape

def is_published(variable):
    return variable.op.type == "VariableV2"

with networks.small_backbone(), tf.Graph().as_default() as graph:
    model = LSTM_model(mode="train", **networks.SMALL)
    variables = tf.compat.v1.global_variables()
    assert any("Adam" in variable.name for variable in variables)
    assert all(map(is_published, variables)), variables
    with tf.compat.v1.Session() as session:
        assert run(session, model) == (1, 64, 64, 1)
is_as_it_was()
"""
WITHOUT_A_GRAPH = """
import warnings
with warnings.catch_warnings(record=True) as told, networks.small_backbone():
    warnings.simplefilter("always")
    model = LSTM_model(**networks.SMALL)
told = [each for each in told if "eager mode is off" in str(each.message)]
assert [each.filename for each in told] == ["<string>"]
assert not tf.executing_eagerly()
with tf.compat.v1.Session() as session:
    assert run(session, model) == (1, 64, 64, 1)
"""


def run_program(code, *arguments):
    """Run code in a process of its own, next to the tests' modules."""
    paths = [str(HERE), str(HERE / "golden")]
    done = subprocess.run(
        [sys.executable, "-c", IS_AS_IT_WAS + code, *paths, *map(str, arguments)],
        stderr=subprocess.PIPE,
        cwd=str(HERE.parent),
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@needs_eager_mode
def test_keras_works_around_predictions_which_are_right(tmp_path):
    data = runs.build(tmp_path, jobs=1)
    snapshot = runs.draw_weights(tmp_path, data)
    words = datasets.get("shapes", data[1]).vocabulary_file
    shutil.copy(words, str(tmp_path / "vocabulary.txt"))
    picture = recipe.image(1, 40, 90)
    np.save(str(tmp_path / "picture.npy"), picture)
    with small_backbone(), Predictor(snapshot) as predictor:
        predictor.set_image(picture)
        wanted = [one.probability for one in predictor.segment(SENTENCES)]
    assert np.ptp(wanted) > 0.01
    files = tmp_path / "picture.npy", tmp_path / "found.npy"
    run_program(PREDICTION, snapshot, *files, *SENTENCES)
    found = np.load(str(tmp_path / "found.npy"))
    assert found.shape == (3, 2, 40, 90)  # one alone, two beside Keras
    np.testing.assert_allclose(found, [wanted] * 3, atol=1e-6)


@needs_eager_mode
def test_networks_by_hand_have_the_published_variables_and_say_what_they_switch():
    """In a graph nothing is switched; without one it is a program of TensorFlow 1."""
    run_program(BY_HAND + WITHOUT_A_GRAPH)
