"""A test that devices share, virtual ones of the CPU."""

import collections
import json

import numpy as np
import pytest
import runs

import trainval_model
from util.evaluation import evaluate
from util.inference.predictor import Predictor

FIGURES = ("results", "samples", "weights", "model", "options", "intervals")


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Return (path of a snapshot, options of a test of six images)."""
    root = tmp_path_factory.mktemp("devices")
    data = runs.build(root, jobs=1)
    snapshot = runs.draw_weights(root / "ckpts", data)
    options = ["-d", "shapes", "-t", "train", "-f", str(root / "ckpts")]
    return snapshot, [*options, *data, "--per-sample", "-c", "--crf-jobs", "1"]


@pytest.fixture
def test(tested, monkeypatch, small_backbone):
    """A function of -g that tests; returns the record and who was asked what."""

    def run(gpus, together=None):
        asked = collections.defaultdict(list)

        class Noting(Predictor):
            def __init__(self, *args, device, **options):
                super().__init__(*args, device=device, together=together, **options)
                names = [one.name for one in self._session.list_devices()]
                assert any(name.endswith(device) for name in names)
                assert self._model.up.device == device
                self.device = device

            def find_all(self, images, *how):
                asked[self.device].append(len(images))
                return super().find_all(images, *how)

        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        monkeypatch.setattr(evaluate, "Predictor", Noting)
        snapshot, options = tested
        assert trainval_model.main(["-m", "test", "-g", gpus, *options]) == 0
        with open(f"{snapshot}.train.json", encoding="utf-8") as file:
            record = json.load(file)
        return {name: record[name] for name in FIGURES}, dict(asked)

    return run


def test_several_devices_find_what_one_finds(test):
    one, asked = test("-1")
    assert asked == {"": [1] * 6}
    two, asked = test("0,1")
    assert asked == {"/device:CPU:0": [1] * 3, "/device:CPU:1": [1] * 3}
    assert two == one
    shared, asked = test("0,1,2", together=10**3)
    assert sum(asked.values(), []) == [6]
    assert [row["number"] for row in shared["samples"]] == list(
        range(len(one["samples"]))
    )
    pixels = 0
    for row, other in zip(one["samples"], shared["samples"]):
        for title in one["results"]:
            counts = np.array(list(row[title].values()))
            pixels += counts
            # Sums in another order may turn a pixel that lies on the border.
            assert np.abs(counts - list(other[title].values())).max() <= 2
    assert (pixels > 0).all()
