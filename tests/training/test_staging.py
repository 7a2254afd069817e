"""Inputs that wait on the device: the same steps as with inputs that are fed."""

import contextlib
import os

import networks
import numpy as np
import pytest
import runs

import trainval_model
from util.bench import measurements
from util.graph.compat import tf
from util.models import base
from util.training import feeds, loop, machine, start

STEPS = 4
TABLE = networks.LSTM_model.WORD_TABLE


def losses(staged, sentences):
    """Train for some steps and return the losses, and a weight at the end."""
    sizes = measurements.Sizes(networks.SMALL)
    with tf.Graph().as_default():
        model = networks.LSTM_model(
            mode="train",
            batch_size=3,  # no divisor of the samples: steps differ
            grouped=sentences > 1,
            staged=staged,
            **networks.SMALL,
        )
        assert bool(model.waiting) == staged
        samples = measurements.training_samples(sizes, sentences)
        feed = feeds.feeds(model, samples)
        with tf.Session() as session:
            networks.load_recipe(session, model)
            found = []
            with contextlib.closing(loop.steps_ahead(session, model, feed)) as ready:
                for step in range(STEPS):
                    values = next(ready).values
                    assert (model.im in values) != staged
                    values[model.noise_seed] = [0, step]
                    fetches = loop.step_fetches(model)
                    found.append(session.run(fetches, values)["loss"])
            # What was left waiting is dropped, and a step may be fed all there is.
            feed = feeds.feeds(model, measurements.training_samples(sizes, sentences))
            again = next(feeds.staged(session, model, feed)).values
            found.append(session.run(model.cls_loss, again))
            found.append(session.run(model.cls_loss, next(feed).values))
            (table,) = (v for v in tf.global_variables() if v.op.name == TABLE)
            return found, session.run(table)


@pytest.mark.parametrize("sentences", [1, 2])
def test_staged_steps_are_those_that_are_fed(small_backbone, sentences):
    fed, table = losses(False, sentences)
    assert len(set(fed)) == STEPS + 2
    staged, table_of_staged = losses(True, sentences)
    np.testing.assert_allclose(staged, fed, rtol=1e-6)
    np.testing.assert_allclose(table_of_staged, table, atol=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_on_a_gpu_stages_its_inputs_unless_they_are_features(
    cached, small_backbone, tmp_path, monkeypatch
):
    """On the CPU, told to be one; it takes all steps and leaves a snapshot."""
    monkeypatch.setattr(machine, "gpus", lambda: ["a card"])
    monkeypatch.setattr(start, "CALIBRATION_IMAGES", 1)
    staged, stage = [], base.Model._stage_inputs
    monkeypatch.setattr(
        base.Model, "_stage_inputs", lambda model: (staged.append(1), stage(model))
    )
    folder = str(tmp_path / "ckpts")
    options = [
        "-m",
        "train",
        *runs.TINY,
        *runs.build(tmp_path),
        "-f",
        folder,
        "-i",
        "3",
    ]
    if cached:
        options += ["--cache-features", str(tmp_path / "cache")]
    assert trainval_model.main(options) == 0
    assert os.path.exists(os.path.join(folder, "shapes_iter_3.tfmodel.index"))
    assert len(staged) == (0 if cached else 1)
