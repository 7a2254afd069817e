"""The network against numbers of the reference implementation (golden/README.md)."""

import networks
import numpy as np
import pytest
from networks import FULL, LOSSES, SMALL, LSTM_model

from util.compat import tf

# Asked for; float32 in another order of operations stays within 2e-6.
FORWARD = 5e-5
LOSS = 1e-5
# Of a variable's length after the last step. Adam's first steps are almost the sign of
# the gradient, so rounding of small gradients shows; 2.1e-4 was seen.
LENGTH = 1e-3
# The true gradient of these biases is 0 (softmax over the cells does not see what all
# cells share): Adam turns rounding noise into steps, its slots are noise altogether.
NOISE = "spa_graph_key_"
TAPS = {"res3b3_relu": "c3", "res4b22_relu": "c4", "res5c_relu": "c5"}


@pytest.mark.parametrize(
    "which, options",
    [
        ("eval", dict(mode="eval")),
        ("train", dict(mode="train")),
        ("train_conv5", dict(mode="train", conv5=True)),
    ],
)
def test_variables_are_those_of_published_checkpoints(which, options):
    with tf.Graph().as_default():
        LSTM_model(**options)
        trainable = {v.op.name for v in tf.trainable_variables()}
        made = [
            [v.op.name, v.shape.as_list(), v.op.name in trainable]
            for v in tf.global_variables()
        ]
    assert made == networks.read_golden("manifest.json")[which]


def check_forward(name, sizes, sample):
    """Compare all tensors of all sentences; `sample` cuts ours like the golden ones."""
    golden = networks.read_golden(name)
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(**sizes)
        networks.load_recipe(session)
        for seed, n in ((1, 5), (2, 1), (3, 20)):
            prefix = "s{}_n{}_".format(seed, n)
            keys = [key[len(prefix) :] for key in golden if key.startswith(prefix)]
            assert len(keys) == 10
            tensors = {
                key: getattr(model, "visual_feat_" + TAPS.get(key, ""), None)
                if key in TAPS
                else getattr(model, key)
                for key in keys
            }
            found = session.run(tensors, networks.feed(model, [(seed, n)], sizes))
            for key, value in found.items():
                wanted = golden[prefix + key]
                value = sample(key, value[0], n).reshape(wanted.shape)
                error = np.abs(value - wanted).max() / np.abs(wanted).max()
                assert error <= FORWARD, (prefix, key)


def cut(key, value, n):
    """Cut one sentence's tensor like `forward_small.npz` does."""
    if key == "words_parse":
        return value[-n:]
    if key in TAPS:
        step = max(1, len(value) // 4)
        return value[::step, ::step, :32]
    return value


def cut_full(key, value, n):
    """Cut one sentence's tensor like `forward_full.npz` does."""
    return value[::16, ::16] if key.startswith(("up", "sigm")) else cut(key, value, n)


def test_forward_of_a_small_network():
    check_forward("forward_small.npz", SMALL, cut)


@pytest.mark.slow
def test_forward_at_full_size():
    check_forward("forward_full.npz", FULL, cut_full)


def check_training(name, sizes, **options):
    golden = networks.read_golden(name)
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(mode="train", **dict(sizes, **options))
        networks.load_recipe(session)
        fetches = [getattr(model, key) for key in golden["columns"]]
        assert golden["columns"] == LOSSES
        for case, wanted in zip(golden["cases"], golden["losses"]):
            fed = networks.feed(model, [case], sizes)
            *found, _ = session.run(fetches + [model.train_step], fed)
            np.testing.assert_allclose(found, wanted, rtol=LOSS)
        values = session.run({v.op.name: v for v in tf.global_variables()})
    after = golden["variables_after"]
    assert set(values) == set(after)
    for key, (_, length, *_first) in after.items():
        if not (NOISE in key and "biases/Adam" in key):
            found = np.linalg.norm(values[key].astype(np.float64))
            assert abs(found - length) <= LENGTH * length, key


def test_training_a_small_network():
    check_training("train_small.json", SMALL)


def test_training_a_small_network_and_its_backbone():
    check_training("train_small_conv5.json", SMALL, conv5=True)


@pytest.mark.slow
def test_training_at_full_size():
    check_training("train_full.json", FULL)
