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

    def variables(self, which):
        """Return name, shape and whether it is trained, of a graph's variables."""
        return networks.read_golden(self.folder + "manifest.json")[which]

    def check_forward(self, name, sizes, cut):
        """Compare all tensors of a file, see `parity.check_forward`."""
        files = self.folder + name, self.variables("eval")
        parity.check_forward(self.model, *files, sizes, cut, self.tensors)

    def check_training(self, name, which, sizes, *more, **options):
        """Compare all losses of a file, with more slot_lengths."""
        files = self.folder + name, self.variables(which)
        allowed = self.columns, [*self.slot_lengths, *more]
        parity.check_training(self.model, *files, sizes, *allowed, **options)


GOLDEN = {
    "CMPC_model": Golden(LSTM_model, "", SMALL, 10, networks.LOSSES, SLOT_LENGTHS),
    "RRN_model": Golden(
        RRN_model.LSTM_model, "rrn/", SMALL_RRN, 7, networks.LOSSES_RRN, []
    ),
}


@pytest.fixture(params=GOLDEN)
def golden(request):
    return GOLDEN[request.param]


@pytest.fixture
def quick():
    """What rewriting does to a graph is seen at full size."""
    with networks.without_rewriting():
        yield


@pytest.mark.usefixtures("quick")
def test_forward_of_a_small_network(golden):
    golden.check_forward("forward_small.npz", golden.small, parity.cut)


@pytest.mark.slow
def test_forward_at_full_size(golden):
    golden.check_forward("forward_full.npz", FULL, parity.cut_full)


@pytest.mark.usefixtures("quick")
def test_training_a_small_network(golden):
    golden.check_training("train_small.json", "train", golden.small)


@pytest.mark.usefixtures("quick")
def test_training_a_small_network_and_its_backbone(golden):
    files = "train_small_conv5.json", "train_conv5"
    more = parity.SLOTS_WITH_CONV5
    golden.check_training(*files, golden.small, more, conv5=True)


@pytest.mark.slow
def test_training_at_full_size(golden):
    golden.check_training("train_full.json", "train", FULL)
