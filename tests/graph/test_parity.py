"""CMPC against numbers of the reference implementation (golden/README.md)."""

import networks
import numpy as np
import parity
import pytest
from networks import FULL, LOSSES, SMALL, LSTM_model

# What is allowed more, and only to Adam's slots: the variables themselves keep LENGTH.
SLOT_LENGTHS = [
    # The true gradient is 0 (softmax over the cells does not see what all cells share):
    # the slots are rounding noise altogether.
    (r"spa_graph_key_.*/biases/Adam", np.inf),
    # A sum over cells that cancels to 1e-5 of its terms, of which float32 keeps two
    # digits: 0.1 was seen. Of a wrong gradient hardly anything would agree.
    (r"spa_graph_trans2_.*/biases/Adam", 0.5),
    # Relations come through softmaxes that these weights hardly move: gradients are a
    # millionth of others and keep fewer digits; 1.02e-3 was seen, and 4.3e-4 of the
    # word classes, which weigh them.
    (r"(words_trans|words_parse|spa_graph_trans2)_.*/Adam", 2e-2),
]
TENSORS = 10  # of each sentence in the files


@pytest.mark.parametrize(
    "which, options",
    [
        ("eval", dict(mode="eval")),
        ("train", dict(mode="train")),
        ("train_conv5", dict(mode="train", conv5=True)),
    ],
)
def test_variables_are_those_of_published_checkpoints(which, options):
    wanted = networks.read_golden("manifest.json")[which]
    parity.check_variables(LSTM_model, wanted, **options)


def test_forward_of_a_small_network():
    name = "forward_small.npz"
    parity.check_forward(LSTM_model, name, SMALL, parity.cut, TENSORS)


@pytest.mark.slow
def test_forward_at_full_size():
    name = "forward_full.npz"
    parity.check_forward(LSTM_model, name, FULL, parity.cut_full, TENSORS)


def test_training_a_small_network():
    name = "train_small.json"
    parity.check_training(LSTM_model, name, SMALL, LOSSES, SLOT_LENGTHS)


def test_training_a_small_network_and_its_backbone():
    allowed = [*SLOT_LENGTHS, parity.SLOTS_WITH_CONV5]
    name = "train_small_conv5.json"
    parity.check_training(LSTM_model, name, SMALL, LOSSES, allowed, conv5=True)


@pytest.mark.slow
def test_training_at_full_size():
    name = "train_full.json"
    parity.check_training(LSTM_model, name, FULL, LOSSES, SLOT_LENGTHS)
