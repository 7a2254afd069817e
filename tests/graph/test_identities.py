"""The network's identities against the literal formulation, values and gradients."""

import literal
import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model

from util.graph.compat import tf

pytestmark = pytest.mark.usefixtures("small_backbone", "without_training_step")
OUTPUTS = ("pred", "up", "up_c3", "up_c4", "up_c5")
# The same sums in another order: 5e-7 of the largest value was seen.
VALUE = 1e-5
# Of the largest gradient of a variable: some are sums that cancel; 1.3e-5 was seen.
SLOPE = 2e-4


@pytest.fixture(scope="module", params=[1, 7])
def both(request):
    """Return outputs and gradients of (ours, literal) for a sentence of some words."""
    ids, first = recipe.words(4, request.param, vocab=50)
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(mode="train", **SMALL)
        taps = {
            level: getattr(model, "visual_feat_" + level) for level in literal.LEVELS
        }
        variables = {
            v.op.name[len("text_objseg/") :]: v
            for v in tf.trainable_variables()
            if v.op.name.startswith("text_objseg/")
        }
        head = literal.Head(variables, taps, ids[first:], (64, 64))
        networks.load_recipe(session)
        fed = networks.feed(model, [(4, request.param)], SMALL)
        # Noise weighs the pixels, so that nothing cancels.
        noise = np.random.RandomState(0).normal(0, 1, [1, 64, 64, 1])
        found = []
        for network in (model, head):
            outputs = [getattr(network, key) for key in OUTPUTS]
            total = sum(tf.reduce_sum(noise * up) for up in outputs[1:])
            slopes = tf.gradients(total, list(variables.values()))
            slopes = list(map(tf.convert_to_tensor, slopes))
            found.append(session.run((outputs, slopes), fed))
    return list(variables), found


def test_values(both):
    _, ((ours, _), (wanted, _)) = both
    for key, value, right in zip(OUTPUTS, ours, wanted):
        assert np.abs(value - right).max() <= VALUE * np.abs(right).max(), key


def test_gradients(both):
    names, ((_, ours), (_, wanted)) = both
    assert len(names) == 735 - 520
    largest = max(np.abs(slope).max() for slope in wanted)
    for name, slope, right in zip(names, ours, wanted):
        error = np.abs(slope - right).max()
        assert error <= VALUE * largest, name
        # The true gradient of a key's bias is 0: it has no scale of its own. With one
        # word, relations have none either: a softmax over it is 1.
        if not ("spa_graph_key" in name and "biases" in name):
            assert error <= SLOPE * np.abs(right).max() + 1e-7 * largest, name
