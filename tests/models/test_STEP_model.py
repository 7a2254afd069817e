"""STEP: its variables, and its rounds against the formulas in NumPy."""

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL_STEP

from deeplab_resnet import LEVELS
from util.graph.compat import tf
from util.graph.layers import coordinates
from util.models import base
from util.models.STEP_model import LSTM_model

CELL = "kernel W_ci W_cf LayerNorm LayerNorm_1 LayerNorm_2 W_co LayerNorm_3 LayerNorm_4"


def names_of_the_head():
    """Return the names in order of creation, below the scope."""
    names = ["Variable"]
    names += [
        f"RNN/{way}/{part}" for way in ("fw", "bw") for part in ("kernel", "bias")
    ]
    layers = ["attend_1", "attend_2", "word_embed"]
    layers += [
        x for level in LEVELS for x in (f"{level}_lateral", f"vis_embed_{level}")
    ]
    layers += ["heat_scale", "look_scale", *(f"fusion_{level}" for level in LEVELS)]
    layers += [f"rnn/conv_lstm_cell/{part}" for part in CELL.split()] + ["score"]
    for layer in layers:
        parts = ("/DW", "/biases")
        if "LayerNorm" in layer:
            parts = ("/beta", "/gamma")
        elif "scale" in layer or "conv_lstm" in layer:
            parts = ("",)
        names += [layer + part for part in parts]
    return names


def variables_below_scope(collection=tf.global_variables):
    start = len(base.SCOPE) + 1
    return {
        v.op.name[start:]: v
        for v in collection()
        if v.op.name.startswith(base.SCOPE + "/")
    }


@pytest.mark.parametrize("folds", [1, 5])
def test_variables_are_the_same_for_any_number_of_rounds(folds):
    with tf.Graph().as_default():
        LSTM_model(folds=folds)
        made = variables_below_scope()
    assert list(made) == names_of_the_head() and len(made) == 47
    numbers = {name: v.shape.as_list() for name, v in made.items()}
    assert numbers["RNN/fw/kernel"] == [800, 2000]
    assert numbers["vis_embed_c3/DW"] == [1, 1, 1008, 500]
    assert numbers["fusion_c5/DW"] == [1, 1, 2009, 500]
    assert numbers["heat_scale"] == []
    assert round(sum(map(np.prod, numbers.values())) / 1e6, 1) == 20.4


def test_training_adds_its_own(small_backbone):
    with tf.Graph().as_default():
        LSTM_model(mode="train", **SMALL_STEP)
        made = list(variables_below_scope())
    assert made[:47] == names_of_the_head()
    assert made[47:50] == ["Variable_1", "beta1_power", "beta2_power"]
    assert made[50] == "text_objseg/Variable/Adam" and len(made) == 50 + 2 * 47


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def read_one_way(vectors, kernel, bias):
    """Return the outputs of an LSTM, [T, C]."""
    cell = hidden = np.zeros(kernel.shape[1] // 4)
    outputs = []
    for vector in vectors:
        gates = np.concatenate([vector, hidden]) @ kernel + bias
        i, j, f, o = np.split(gates, 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


class Written:
    """The model as step.md writes it, for a sentence without padding, in float64."""

    def __init__(self, values, taps, ids):
        self.values = {name: x.astype(np.float64) for name, x in values.items()}
        vectors = self.values["Variable"][ids]
        forward, backward = (
            read_one_way(read, self.values[way + "/kernel"], self.values[way + "/bias"])
            for way, read in (("RNN/fw", vectors), ("RNN/bw", vectors[::-1]))
        )
        self.words = unit(np.concatenate([forward, backward[::-1]], axis=1))
        hidden = np.tanh(self.conv(self.words, "attend_1"))
        self.prior = self.conv(hidden, "attend_2")[:, 0]
        self.keys = unit(self.conv(self.words, "word_embed"))
        self.place = coordinates(8, 8).astype(np.float64)
        self.visual = [unit(self.conv(taps[x], x + "_lateral")) for x in LEVELS]
        self.seen = [
            unit(self.conv(np.concatenate([cells, self.place], 2), "vis_embed_" + x))
            for x, cells in zip(LEVELS, self.visual)
        ]
        self.state = np.zeros([2, 8, 8, 16])

    def conv(self, x, name):
        return x @ self.values[name + "/DW"][0, 0] + self.values[name + "/biases"]

    def rounds(self, number):
        """Yield heatmaps, score and attention of each round."""
        logits = self.prior
        for _ in range(number):
            attention = np.exp(logits) / np.exp(logits).sum()
            sentence, asked = (unit(attention @ x) for x in (self.words, self.keys))
            heat = [cells @ asked for cells in self.seen]
            everywhere = np.tile(sentence, (8, 8, 1))
            for level, visual, one in zip(LEVELS, self.visual, heat):
                scaled = self.values["heat_scale"] * one[..., np.newaxis]
                cells = np.concatenate([visual, everywhere, self.place, scaled], 2)
                self.step(np.maximum(self.conv(cells, "fusion_" + level), 0))
            padded = np.pad(self.state[1], ((1, 1), (1, 1), (0, 0)), "constant")
            kernel = self.values["score/DW"]
            score = self.values["score/biases"] + sum(
                padded[r : r + 8, c : c + 8] @ kernel[r, c]
                for r in range(3)
                for c in range(3)
            )
            yield np.stack(heat, axis=2), score, attention
            look = sigmoid(score)
            found = unit(sum((look * cells).sum((0, 1)) for cells in self.seen))
            logits = self.prior + self.values["look_scale"] * (self.keys @ found)

    def step(self, x):
        cell, hidden = self.state
        at = "rnn/conv_lstm_cell/"

        def norm(x, number):
            name = at + "LayerNorm" + number
            x = (x - x.mean()) / x.std()
            return x * self.values[name + "/gamma"] + self.values[name + "/beta"]

        kernel = self.values[at + "kernel"][0, 0]
        j, i, f, o = np.split(np.concatenate([x, hidden], axis=2) @ kernel, 4, axis=2)
        i = norm(i + self.values[at + "W_ci"] * cell, "_1")
        f = norm(f + self.values[at + "W_cf"] * cell, "_2")
        cell = cell * sigmoid(f + 1) + sigmoid(i) * np.tanh(norm(j, ""))
        o = norm(o + self.values[at + "W_co"] * cell, "_3")
        cell = norm(cell, "_4")
        self.state = cell, sigmoid(o) * np.tanh(cell)


def test_rounds_are_what_the_formulas_say(small_backbone):
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(**SMALL_STEP)
        networks.load_recipe(session, model)
        fed = networks.feed(model, [(4, 6)], SMALL_STEP)
        taps = {x: getattr(model, "visual_feat_" + x) for x in LEVELS}
        found = session.run([model.heat, model.scores, model.attention, taps], fed)
        values = session.run(variables_below_scope())
    heat, scores, attention, taps = found
    ids, first = recipe.words(4, 6, vocab=50)
    written = Written(values, {x: tap[0] for x, tap in taps.items()}, ids[first:])
    wanted = list(zip(*written.rounds(3)))
    np.testing.assert_allclose(heat[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(scores[0], wanted[1], atol=1e-4)
    np.testing.assert_allclose(attention[0, :, first:], wanted[2], atol=1e-5)
    assert not attention[0, :, :first].any()
    # The formulas are not met by standing still.
    assert np.abs(attention[0, 0] - attention[0, 1]).max() > 0.01
    assert np.abs(heat).max() <= 1 and heat.std() > 0.01


def test_the_last_round_is_the_answer_and_all_are_trained_alike(small_backbone):
    with tf.Graph().as_default(), tf.Session() as session:
        with networks.without_training_step():
            model = LSTM_model(mode="train", **SMALL_STEP)
        networks.load_recipe(session, model)
        fetches = dict(model.losses, all=model.cls_loss_all, pred_=model.pred)
        fetches.update(scores=model.scores, first=model.logits["round_1"])
        found = session.run(fetches, networks.feed(model, [(1, 5)], SMALL_STEP))
    np.testing.assert_array_equal(found["pred_"], found["scores"][:, -1])
    np.testing.assert_array_equal(found["first"], found["scores"][:, 0])
    assert list(model.losses) == ["pred", "round_1", "round_2"]
    assert model.cls_loss is model.losses["pred"]
    mean = np.mean([found[name] for name in model.losses])
    np.testing.assert_allclose(found["all"], mean, rtol=1e-6)


def test_one_round_looks_once(small_backbone):
    """Its answer is that of round 1 of any number; nothing comes from look_scale."""
    slopes, firsts = {}, {}
    for folds in (1, 2):
        with tf.Graph().as_default(), tf.Session() as session:
            model = LSTM_model(mode="train", **dict(SMALL_STEP, folds=folds))
            networks.load_recipe(session, model)
            fed = networks.feed(model, [(1, 5)], SMALL_STEP)
            scale = variables_below_scope()["look_scale"]
            (slope,) = tf.gradients(model.cls_loss_all, scale)
            slopes[folds] = None if slope is None else session.run(slope, fed)
            firsts[folds] = session.run(model.scores, fed)[0, 0]
            session.run(model.train_step, fed)
            assert np.isfinite(session.run(model.cost, fed))
    assert slopes[1] is None and abs(slopes[2]) > 1e-3
    np.testing.assert_allclose(firsts[1], firsts[2], atol=1e-5)


def test_sizes_are_read_from_the_variables(small_backbone):
    sizes = dict(SMALL_STEP, rnn_size=40, vf_w=12, W=96)
    with tf.Graph().as_default():
        LSTM_model(**sizes)
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    found = LSTM_model.sizes(shapes)
    known = dict(sizes, glove_dim=300)
    del known["folds"], found["folds"]
    assert found == known


def test_two_lstms_share_an_even_number():
    assert LSTM_model.channels(15, 8)["rnn_size"] == 16
    with tf.Graph().as_default():
        with pytest.raises(ValueError, match="rnn_size 15 is odd: two LSTMs share it"):
            LSTM_model(rnn_size=15)


@pytest.mark.parametrize("folds", [0, 2.5, 9])
def test_rounds_that_cannot_be(folds):
    with tf.Graph().as_default() as graph:
        with pytest.raises(ValueError, match="STEP_model has no folds"):
            LSTM_model(folds=folds)
        assert not graph.get_operations()
