"""util.graph.towers: which devices there are."""

import pytest

from util.core.errors import UserError
from util.graph.compat import tf
from util.graph.towers import local_devices, local_towers


@pytest.mark.parametrize(
    "found, number, names",
    [
        (0, 1, [""]),
        (0, 2, ["/device:CPU:0", "/device:CPU:1"]),
        (2, 1, [""]),
        (2, 2, ["/device:GPU:0", "/device:GPU:1"]),
    ],
)
def test_devices_are_gpus_or_virtual_ones(monkeypatch, found, number, names):
    config = tf.config.experimental
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [kind] * found)
    assert local_devices(number) == names


@pytest.mark.parametrize("find", [local_devices, local_towers])
def test_gpus_that_are_not_there_are_refused(monkeypatch, find):
    """TensorFlow would give their work to the first one, in silence."""
    config = tf.config.experimental
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [kind] * 2)
    with pytest.raises(UserError, match="-g names 3 GPUs, and TensorFlow finds 2"):
        find(3)
