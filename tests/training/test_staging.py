"""Inputs that wait on the device: the same steps as with inputs that are fed."""

import contextlib

import networks
import numpy as np
import pytest

from util.bench import measurements
from util.graph.compat import tf
from util.training import feeds, loop

STEPS = 4


def losses(staged, sentences):
    """Train for some steps and return the losses, and a weight at the end."""
    sizes = measurements.Sizes(networks.SMALL)
    with tf.Graph().as_default():
        tf.set_random_seed(1)
        model = networks.LSTM_model(
            mode="train",
            batch_size=4,
            grouped=sentences > 1,
            staged=staged,
            **networks.SMALL,
        )
        assert bool(model.waiting) == staged
        samples = measurements.training_samples(sizes, sentences)
        feed = feeds.feeds(model, samples)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            found = []
            with contextlib.closing(loop.steps_ahead(session, model, feed)) as ready:
                for step in range(STEPS):
                    values = next(ready).values
                    assert (model.im in values) != staged
                    values[model.noise_seed] = [0, step]
                    fetches = loop.step_fetches(model)
                    found.append(session.run(fetches, values)["loss"])
            # Nothing waits for a step that is fed all there is.
            last = next(feed).values
            found.append(session.run(model.cls_loss, last))
            (table,) = (v for v in tf.global_variables() if v.op.name == TABLE)
            return found, session.run(table)


TABLE = networks.LSTM_model.WORD_TABLE


@pytest.mark.parametrize("sentences", [1, 2])
def test_staged_steps_are_those_that_are_fed(small_backbone, sentences):
    fed, table = losses(False, sentences)
    assert len(set(fed)) == STEPS + 1
    staged, table_of_staged = losses(True, sentences)
    np.testing.assert_allclose(staged, fed, rtol=1e-6)
    np.testing.assert_allclose(table_of_staged, table, atol=1e-6)
