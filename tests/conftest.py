"""What all tests share; golden/recipe.py defines the inputs of golden/."""

import os
import signal
import sys
from pathlib import Path

import pytest

from util.core import surroundings

sys.path.append(str(Path(__file__).parent / "golden"))
# Files that take a minute or more, the longest first; a core would be idle while the
# last of them runs.
LONG = (
    "test_variant_commands.py",
    "test_batching.py",
    "test_parity.py",
    "test_variants.py",
    "test_cluster.py",
    "test_benchmark.py",
    "test_commands.py",
    "test_end_to_end.py",
    "test_onnx.py",
    "test_predictor.py",
    "test_session.py",
    "test_readmes.py",
    "test_train.py",
    "test_server.py",
    "test_feature_cache.py",
    "test_before_house.py",
    "test_grefcoco.py",
    "test_in_a_program.py",
    "test_devices.py",
    "test_same_masks.py",
    "test_gpu.py",
    "test_every_alphabet.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Begin with the long files; xdist begins with those that have many tests."""
    from xdist.scheduler import LoadFileScheduling

    class LongFilesFirst(LoadFileScheduling):
        def _assign_work_unit(self, node):
            long = [x for name in LONG for x in self.workqueue if x.endswith(name)]
            for scope in long[:1]:
                self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    if config.getoption("dist") == "loadfile":
        return LongFilesFirst(config, log)
    return None


@pytest.fixture(autouse=True)
def ctrl_c_works_afterwards():
    """Give pytest its Ctrl-C back where a command under test stopped listening."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(autouse=True)
def gpus_are_those_of_before():
    """Undo what a command under test chose for its process with -g."""
    visible = os.environ.get(surroundings.GPUS)
    yield
    os.environ.pop(surroundings.GPUS, None)
    if visible is not None:
        os.environ[surroundings.GPUS] = visible


@pytest.fixture(scope="module", autouse=True)
def graphs_are_freed():
    """Let go of the graphs of a file, see `compat.forget_gradients`."""
    yield
    if "util.graph.compat" in sys.modules:
        gradients = sys.modules["util.graph.compat"].ops._gradient_registry._registry
        for name in [name for name in gradients if name.startswith("CustomGradient-")]:
            del gradients[name]


@pytest.fixture(scope="module")
def without_training_step():
    """Build the networks of a file up to their losses, where no step is taken."""
    import networks

    with networks.without_training_step():
        yield


@pytest.fixture(scope="module")
def small_backbone():
    """Give the networks of a file a backbone of a unit a block, which is quicker."""
    import networks

    with networks.small_backbone():
        yield
