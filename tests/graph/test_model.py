"""CMPC_model.LSTM_model: its arguments, its attributes, dropout and initial values."""

import builtins
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model

from util.graph.compat import tf

VECTORS = recipe.weight("Variable", [50, 300])


@pytest.fixture(scope="module")
def built():
    """One graph with three networks that share their variables, the recipe's.

    Yields:
      (session, dict): "train" and "eval" were told to drop half of the word vectors
      and of the LSTM's outputs, "plain" was not.
    """
    refuse = mock.Mock(side_effect=AssertionError("a file was opened"))
    halves = dict(SMALL, keep_prob_rnn=0.5, keep_prob_emb=0.5, glove=VECTORS)
    with tf.Graph().as_default(), tf.Session() as session:
        with mock.patch.object(builtins, "open", refuse):
            models = {"train": LSTM_model(mode="train", **halves)}
            with tf.variable_scope(tf.get_variable_scope(), reuse=True):
                models["eval"] = LSTM_model(**halves)
                models["plain"] = LSTM_model(**SMALL)
        networks.load_recipe(session)
        yield session, models


def find(session, model, key="up"):
    return session.run(getattr(model, key), networks.feed(model, [(1, 5)], SMALL))


FORMS = dict(
    words=("int32", [1, 20]),
    im=("float32", [1, 64, 64, 3]),
    target_fine=("float32", [1, 64, 64, 1]),
    valid_idx=("int32", [1, 1]),
    pred=("float32", [1, 8, 8, 1]),
    up=("float32", [1, 64, 64, 1]),
    sigm=("float32", [1, 64, 64, 1]),
    up_c3=("float32", [1, 64, 64, 1]),
    up_c4=("float32", [1, 64, 64, 1]),
    up_c5=("float32", [1, 64, 64, 1]),
    visual_feat_c3=("float32", [1, 8, 8, 512]),
    visual_feat_c4=("float32", [1, 8, 8, 1024]),
    visual_feat_c5=("float32", [1, 8, 8, 2048]),
    words_parse=("float32", [1, 20, 4]),
)
TRAINING_FORMS = dict(
    target=("float32", [1, 8, 8, 1]),
    **{key: ("float32", []) for key in networks.LOSSES},
)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attributes(built, mode):
    model = built[1][mode]
    for key, form in dict(FORMS, **TRAINING_FORMS).items():
        if mode == "train" or key in FORMS:
            tensor = getattr(model, key)
            assert (tensor.dtype.name, tensor.shape.as_list()) == form, key
        else:
            assert not hasattr(model, key), key
    assert hasattr(model, "train_step") == (mode == "train")


def test_word_vectors_begin_with_the_array_given(built):
    session, _ = built
    table = next(
        v for v in tf.global_variables() if v.op.name == "text_objseg/Variable"
    )
    np.testing.assert_array_equal(session.run(table.initial_value), VECTORS)


def test_dropout_is_for_training(built):
    session, models = built
    plain = find(session, models["plain"])
    np.testing.assert_array_equal(find(session, models["eval"]), plain)
    first, second = (find(session, models["train"]) for _ in range(2))
    assert np.abs(first - second).max() > 0.001 * np.abs(plain).max()
    assert np.abs(first - plain).max() > 0.001 * np.abs(plain).max()


def test_one_step_moves_every_trained_variable_and_no_other(built):
    """Adam's first moment is a tenth of the gradient: it tells what has one."""
    session, models = built
    model = models["train"]
    before = session.run({v.op.name: v for v in tf.global_variables()})
    session.run(model.train_step, networks.feed(model, [(1, 5)], SMALL))
    after = session.run({v.op.name: v for v in tf.global_variables()})
    trained = {
        v.op.name for v in tf.trainable_variables() if v.op.name.startswith("text_")
    }
    assert len(trained) == 735 - 520
    for name in before:
        if "spa_graph_key" in name and name.endswith("biases"):
            # A softmax does not see them: their gradient is rounding noise, or 0.
            assert f"text_objseg/{name}/Adam" in after
        elif name in trained:
            slope = after[f"text_objseg/{name}/Adam"]
            assert np.abs(slope).max() > 0, name
            assert np.abs(after[name] - before[name]).max() > 0, name
        elif not name.startswith("text_objseg/"):
            np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(mode="test"), "mode 'test' is neither 'train' nor 'eval'"),
        (dict(optimizer="sgd"), "optimizer 'sgd': only 'adam' is known"),
        (dict(rnn_size=500), "rnn_size 500 and v_emb_dim 1000 differ"),
        (dict(H=321), "H x W 321x320 is not 8 x vf_h x vf_w 40x40"),
        (dict(vf_w=20), "H x W 320x320 is not 8 x vf_h x vf_w 40x20"),
    ],
)
def test_arguments_that_do_not_go_together(options, told):
    with tf.Graph().as_default() as graph:
        with pytest.raises(ValueError, match=told):
            LSTM_model(**options)
        assert not graph.get_operations()


def test_an_argument_that_is_unknown_is_refused_by_name():
    with pytest.raises(TypeError, match="weights"):
        LSTM_model(weights="resnet")
