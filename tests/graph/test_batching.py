"""A batch gives what its sentences give one by one (model.md 9)."""

import networks
import numpy as np
import pytest
from networks import SMALL, LSTM_model

from util.graph.compat import tf

pytestmark = pytest.mark.usefixtures("small_backbone")
CASES = [(1, 1), (2, 5), (3, 20)]
# Asked for, of the largest value; products of other sizes add in another order.
TOLERANCE = 1e-5
# Of the largest gradient of one variable, so that a small one cannot be wrong unseen.
# Small ones are sums of large terms that cancel: 2.2e-4 was seen.
TOLERANCE_EACH = 2e-3
OUTPUTS = ("pred", "up", "sigm", "up_c3", "up_c4", "up_c5")


def outputs_and_gradients(batches):
    """Return the outputs of all sentences in order and the sum of their gradients."""
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(batch_size=len(batches[0]), mode="train", **SMALL)
        networks.load_recipe(session)
        tensors = {key: getattr(model, key) for key in OUTPUTS}
        variables = [v for v in tf.trainable_variables() if "text_objseg" in v.op.name]
        gradients = tf.gradients(model.cls_loss_all, variables)
        outputs, total = {key: [] for key in OUTPUTS}, None
        for batch in batches:
            fed = networks.feed(model, batch, SMALL)
            found, slopes = session.run(
                (tensors, list(map(tf.convert_to_tensor, gradients))), fed
            )
            for key in OUTPUTS:
                outputs[key] += list(found[key])
            # The loss is the mean over the batch.
            slopes = [len(batch) * slope for slope in slopes]
            total = slopes if total is None else [a + b for a, b in zip(total, slopes)]
        names = [v.op.name for v in variables]
    return outputs, dict(zip(names, total))


@pytest.fixture(scope="module")
def together():
    return outputs_and_gradients([CASES])


@pytest.fixture(scope="module")
def one_by_one():
    return outputs_and_gradients([[case] for case in CASES])


@pytest.mark.parametrize("key", OUTPUTS)
def test_outputs(key, together, one_by_one):
    found, wanted = np.array(together[0][key]), np.array(one_by_one[0][key])
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_gradients(together, one_by_one):
    largest = max(np.abs(slope).max() for slope in one_by_one[1].values())
    for name, wanted in one_by_one[1].items():
        error = np.abs(together[1][name] - wanted).max()
        assert error <= TOLERANCE * largest, name
        # The true gradient of a key's bias is 0: it has no scale of its own.
        if not ("spa_graph_key" in name and "biases" in name):
            assert error <= TOLERANCE_EACH * np.abs(wanted).max(), name


def test_sentences_of_one_image_share_it():
    with tf.Graph().as_default(), tf.Session() as session:
        shared = LSTM_model(batch_size=4, num_images=2, **SMALL)
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            apart = LSTM_model(batch_size=4, **SMALL)
        networks.load_recipe(session)
        fed = networks.feed(apart, [(1, 3), (1, 3), (2, 7), (2, 7)], SMALL)
        fed[apart.words][1] = fed[apart.words][2]
        wanted = session.run(apart.up, fed)
        images = {shared.im: fed[apart.im][::2], shared.words: fed[apart.words]}
        found = session.run(shared.up, images)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01 * np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_padding_changes_nothing():
    """Positions in front of a sentence are not there, however many."""
    with tf.Graph().as_default(), tf.Session() as session:
        long = LSTM_model(num_steps=20, **SMALL)
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            short = LSTM_model(num_steps=5, **SMALL)
        networks.load_recipe(session)
        fed = networks.feed(long, [(1, 5)], SMALL)
        wanted = session.run(long.up, fed)
        fed = {short.im: fed[long.im], short.words: [fed[long.words][0][-5:]]}
        found = session.run(short.up, fed)
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_the_reference_feeds_an_index_that_is_not_needed():
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(**SMALL)
        networks.load_recipe(session)
        fed = networks.feed(model, [(1, 5)], SMALL)
        wanted = session.run(model.up, fed)
        fed[model.valid_idx] = [[15]]
        np.testing.assert_array_equal(session.run(model.up, fed), wanted)
