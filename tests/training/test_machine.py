"""util.training.machine: how a session computes."""

import contextlib
from unittest import mock

import pytest
from networks import SMALL, LSTM_model, without_training_step

from util.graph.compat import tf
from util.training import cluster, machine


@pytest.mark.parametrize(
    "is_small, gpus, side_by_side",
    [(True, [], True), (False, [], False), (True, ["an H100"], False)],
)
def test_operations_of_a_small_network_are_not_shared_by_a_cpus_threads(
    is_small, gpus, side_by_side, monkeypatch
):
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(machine, "new_session", lambda **how: _opened(how))
    model = mock.Mock(is_small=is_small)
    with machine.Machine(threads=2).session(model) as how:
        assert how["side_by_side"] is side_by_side and how["threads"] == 2


@contextlib.contextmanager
def _opened(how):
    yield how


@pytest.mark.parametrize("conv5", [False, True])
def test_a_network_is_small_by_what_is_trained(conv5):
    with without_training_step(), tf.Graph().as_default():
        model = LSTM_model(mode="train", units=(1, 1, 1, 1), conv5=conv5, **SMALL)
    assert model.is_small != conv5


@pytest.mark.parametrize(
    "gpus, devices, stages",
    [([], 1, False), (["an H100"], 1, True), (["two"], 2, False)],
)
def test_inputs_wait_on_the_only_device_if_it_is_a_gpu(
    gpus, devices, stages, monkeypatch
):
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    assert machine.Machine(2, devices).stages is stages
    assert cluster.Task.stages is False
