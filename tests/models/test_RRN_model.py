"""RRN: what its class takes and has; for its numbers see graph/test_parity.py."""

import inspect
from unittest import mock

import networks
import numpy as np
import pytest
from networks import SMALL_RRN
from variables import save

from util.data import datasets
from util.graph.compat import tf
from util.models import base
from util.models.RRN_model import LSTM_model
from util.training import train


def test_arguments_are_those_of_the_release():
    arguments = inspect.signature(LSTM_model).parameters
    assert " ".join(arguments).startswith(
        "batch_size num_steps vf_h vf_w H W vf_dim vocab_size w_emb_dim v_emb_dim "
        "mlp_dim start_lr lr_decay_step lr_decay_rate rnn_size keep_prob_rnn "
        "keep_prob_emb keep_prob_mlp num_rnn_layers optimizer weight_decay mode conv5"
    )
    assert "glove" not in arguments
    defaults = {name: one.default for name, one in arguments.items()}
    assert [defaults[name] for name in ("w_emb_dim", "rnn_size")] == [1000, 1000]


def test_layers_that_the_release_cannot_build_either(small_backbone):
    with tf.Graph().as_default() as graph:
        with pytest.raises(ValueError, match="num_rnn_layers 2: only 1 is known"):
            LSTM_model(num_rnn_layers=2)
        assert not graph.get_operations()


def test_attributes(small_backbone):
    with tf.Graph().as_default():
        model = LSTM_model(mode="train", **SMALL_RRN)
    assert model.visual_feat is model.visual_feat_c5
    names = "words im target_fine valid_idx visual_feat_c4 visual_feat_c3 pred up sigm"
    names += " target train_step sentence " + " ".join(networks.LOSSES_RRN)
    assert all(hasattr(model, name) for name in names.split())
    assert model.sentence.shape.as_list() == [1, 40]
    assert list(model.losses) == ["pred"] and model.cls_loss_all is not None
    assert not hasattr(model, "cls_loss_c5") and model.words_parse is None


def test_sizes_are_read_from_the_variables(small_backbone):
    sizes = dict(SMALL_RRN, vf_w=12, W=96)
    with tf.Graph().as_default():
        LSTM_model(**sizes)
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    assert LSTM_model.sizes(shapes) == sizes


def test_three_sizes_of_a_snapshot_stay_three(small_backbone, tmp_path):
    """A user's two numbers of channels make all three; a snapshot's own are kept."""
    with tf.Graph().as_default():
        LSTM_model(**SMALL_RRN)
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    snapshot = save(tmp_path, shapes)
    unc = datasets.get("unc")
    training_set = mock.Mock(dataset=unc, rows=64, columns=64, vocab_size=50)
    started = train.network_options(LSTM_model, training_set, init_from=snapshot)
    assert SMALL_RRN.items() <= started.items()
    drawn = train.network_options(LSTM_model, training_set, channels={"v_emb_dim": 16})
    wanted = dict(v_emb_dim=16, mlp_dim=500, w_emb_dim=16, rnn_size=16)
    assert wanted.items() <= drawn.items()


def test_first_values(small_backbone):
    with tf.Graph().as_default(), tf.Session() as session:
        LSTM_model(**dict(SMALL_RRN, vocab_size=2000))
        session.run(tf.global_variables_initializer())
        values = session.run(
            {v.op.name[len(base.SCOPE) + 1 :]: v for v in tf.global_variables()}
        )
    table = values["embedding"]
    np.testing.assert_allclose([table.min(), table.max()], [-0.08, 0.08], atol=1e-4)
    kernel = values["RNN/multi_rnn_cell/cell_0/basic_lstm_cell/kernel"]
    glorot = np.sqrt(6 / sum(kernel.shape))
    np.testing.assert_allclose(
        [kernel.min(), kernel.max()], [-glorot, glorot], rtol=0.02
    )
    assert not values["RNN/multi_rnn_cell/cell_0/basic_lstm_cell/bias"].any()


def test_dropout_is_for_training(small_backbone):
    halves = dict(SMALL_RRN, keep_prob_rnn=0.5, keep_prob_emb=0.5)
    with tf.Graph().as_default(), tf.Session() as session:
        with networks.without_training_step():
            built = {"train": LSTM_model(mode="train", **halves)}
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            built["eval"] = LSTM_model(**halves)
            built["plain"] = LSTM_model(**SMALL_RRN)
        networks.load_recipe(session, LSTM_model)
        fed = {k: networks.feed(m, [(1, 5)], SMALL_RRN) for k, m in built.items()}
        found = {k: session.run(m.up, fed[k]) for k, m in built.items()}
        again = session.run(built["train"].up, fed["train"])
    np.testing.assert_array_equal(found["eval"], found["plain"])
    for other in (again, found["plain"]):
        assert np.abs(found["train"] - other).max() > 0.001 * np.abs(other).max()
