"""Networks with the weights and inputs of golden/recipe.py, for the tests."""

import contextlib
import functools
import json
import lzma
import os
from unittest import mock

import numpy as np
import recipe

from CMPC_model import LSTM_model
from deeplab_resnet import model as backbone
from util.graph import optimizer
from util.graph.compat import no_deprecations, tf
from util.models import OPTIONS, RRN_model, STEP_model
from util.models.base import SCOPE

no_deprecations()  # as in commands

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
SMALL = dict(
    H=64, W=64, vf_h=8, vf_w=8, v_emb_dim=32, rnn_size=32, mlp_dim=16, vocab_size=50
)
FULL = dict(vocab_size=12112)
SMALL_RRN = dict(SMALL, w_emb_dim=24, rnn_size=40)
SMALL_STEP = dict(SMALL, emb_dim=24, folds=3)
# What every network must do: name -> (class, arguments).
NETWORKS = {
    "CMPC_model": (LSTM_model, SMALL),
    "RRN_model": (RRN_model.LSTM_model, SMALL_RRN),
    "STEP_model": (STEP_model.LSTM_model, SMALL_STEP),
}
# The same of variants of CMPC; losses of the IoU differ in their weights only.
VARIANTS = {
    f"{name} {value}": (LSTM_model, dict(SMALL, **{name: value}))
    for name in LSTM_model.OPTIONS
    for value in OPTIONS[name]
    if value not in ("iou50", "iou70")
}
BLOCKS = backbone.BLOCKS
LOSSES = (
    "cls_loss cls_loss_c5 cls_loss_c4 cls_loss_c3 cls_loss_all reg_loss cost"
    " learning_rate"
).split()
LOSSES_RRN = "cls_loss reg_loss cost learning_rate".split()


@contextlib.contextmanager
def without_rewriting():
    """Have sessions run graphs as they were built.

    TensorFlow rewrites a graph before its first run, which takes longer than all runs
    that a test makes of a tiny network. What rewriting may do wrong is for the tests
    that are as large as life: end to end, the reference's numbers, cached features.
    """
    make = tf.Session

    def session(target="", graph=None, config=None):
        config = config or tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        return make(target, graph, config)

    with mock.patch.object(tf, "Session", session):
        yield


@contextlib.contextmanager
def without_training_step():
    """Build networks of mode "train" up to their losses, where no step is taken."""
    with mock.patch.object(optimizer, "adam", lambda *args, **options: (None, None)):
        yield


@contextlib.contextmanager
def small_backbone(rewriting=False):
    """Shrink the backbone to a unit a block, where a test is about something else.

    Args:
      rewriting: whether TensorFlow rewrites graphs, see `without_rewriting`.
    """
    blocks = [block._replace(units=block.units[:1], width=16) for block in BLOCKS]
    channels = dict.fromkeys(backbone.CHANNELS, 4 * 16)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(backbone, "BLOCKS", blocks))
        stack.enter_context(mock.patch.dict(backbone.CHANNELS, channels))
        if not rewriting:
            stack.enter_context(without_rewriting())
        yield


def with_small_backbone(work, *args):
    """Call a function with a small backbone, also in a process of its own."""
    with small_backbone():
        return work(*args)


def read_golden(name):
    """Return the content of a golden .json, .json.xz or .npz file."""
    path = os.path.join(GOLDEN, name)
    if name.endswith(".npz"):
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    read = lzma.open if name.endswith(".xz") else open
    with read(path, "rt", encoding="utf-8") as file:
        return json.load(file)


@functools.lru_cache(maxsize=None)
def weight_of_the_backbone(name, shape):
    """Return what `recipe.weight` does; kept, since drawing all takes a second."""
    return recipe.weight(name, shape)


def weight(variable):
    """Return the recipe's value of a variable."""
    name, shape = variable.op.name, tuple(variable.shape.as_list())
    draw = recipe.weight if name.startswith(SCOPE) else weight_of_the_backbone
    return draw(name, shape)


def load_recipe(session, model=LSTM_model):
    """Initialise the graph's variables, the network's with the recipe's weights.

    `model` is a network in the graph, or its class.
    """
    variables = tf.global_variables()
    weights = [
        v
        for v in variables
        if model.is_weight(v.op.name) and not v.op.name.endswith("_scale")  # of STEP
    ]
    session.run(
        [v.initializer for v in variables],
        {v.initializer.inputs[1]: weight(v) for v in weights},
    )


def feed(model, cases, sizes):
    """Return what to feed for a batch of (seed, number of words)."""
    size = sizes.get("H", 320)
    fed = {
        model.words: [
            recipe.words(seed, n, vocab=sizes["vocab_size"])[0] for seed, n in cases
        ],
        model.im: [
            recipe.network_input(recipe.image(seed, size, size)) for seed, _ in cases
        ],
    }
    if hasattr(model, "cost"):
        fed[model.target_fine] = [recipe.mask(seed, size, size) for seed, _ in cases]
    return fed


__all__ = [
    "FULL",
    "LOSSES",
    "LOSSES_RRN",
    "NETWORKS",
    "SMALL",
    "SMALL_RRN",
    "SMALL_STEP",
    "VARIANTS",
    "LSTM_model",
    "feed",
    "load_recipe",
    "read_golden",
    "small_backbone",
]
