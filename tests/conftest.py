"""Lets the tests import golden/recipe.py, which defines the inputs of golden/."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "golden"))


@pytest.fixture(autouse=True)
def ctrl_c_works_afterwards():
    """Give pytest its Ctrl-C back where a command under test stopped listening."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def small_backbone():
    """Give the networks of a file a backbone of a unit a block, which is quicker."""
    import networks

    with networks.small_backbone():
        yield
