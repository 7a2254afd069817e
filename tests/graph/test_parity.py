"""CMPC and RRN against numbers of their implementations (golden/README.md)."""

from typing import Any, Dict, List, NamedTuple, Tuple

import networks
import numpy as np
import parity
import pytest
from networks import FULL, SMALL, SMALL_RRN, LSTM_model

from util.models import RRN_model

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


class Golden(NamedTuple):
    """The numbers of an implementation.

    Attributes:
      model: the class that gives the same.
      folder: of the files, in golden/.
      small: the sizes of the small network.
      tensors: how many of each sentence are in the files.
      columns: the losses in the files.
      slot_lengths: see `parity.check_training`.
    """

    model: Any
    folder: str
    small: Dict[str, int]
    tensors: int
    columns: List[str]
    slot_lengths: List[Tuple[str, float]]

    def check_forward(self, name, sizes, cut):
        """Compare all tensors of a file, see `parity.check_forward`."""
        name = self.folder + name
        parity.check_forward(self.model, name, sizes, cut, self.tensors)

    def check_training(self, name, sizes, *more, **options):
        """Compare all losses of a file, with more slot_lengths."""
        allowed, name = [*self.slot_lengths, *more], self.folder + name
        parity.check_training(self.model, name, sizes, self.columns, allowed, **options)


GOLDEN = {
    "CMPC_model": Golden(LSTM_model, "", SMALL, 10, networks.LOSSES, SLOT_LENGTHS),
    "RRN_model": Golden(
        RRN_model.LSTM_model, "rrn/", SMALL_RRN, 7, networks.LOSSES_RRN, []
    ),
}


@pytest.fixture(params=GOLDEN)
def golden(request):
    return GOLDEN[request.param]


@pytest.mark.parametrize(
    "which, options",
    [
        ("eval", dict(mode="eval")),
        ("train", dict(mode="train")),
        ("train_conv5", dict(mode="train", conv5=True)),
    ],
)
def test_variables_are_those_of_the_reference(golden, which, options):
    wanted = networks.read_golden(golden.folder + "manifest.json")[which]
    parity.check_variables(golden.model, wanted, **options)


def test_forward_of_a_small_network(golden):
    golden.check_forward("forward_small.npz", golden.small, parity.cut)


@pytest.mark.slow
def test_forward_at_full_size(golden):
    golden.check_forward("forward_full.npz", FULL, parity.cut_full)


def test_training_a_small_network(golden):
    golden.check_training("train_small.json", golden.small)


def test_training_a_small_network_and_its_backbone(golden):
    more = parity.SLOTS_WITH_CONV5
    golden.check_training("train_small_conv5.json", golden.small, more, conv5=True)


@pytest.mark.slow
def test_training_at_full_size(golden):
    golden.check_training("train_full.json", FULL)
