"""util.bench.gpu on the CPU, at a tiny size; no time is asserted."""

import json
import os

import networks
import numpy as np
import pytest

from util import benchmark
from util.bench import gpu, measurements
from util.core.errors import UserError
from util.graph import session
from util.graph.compat import tf

STREAMS = {1: 2, 7: 1}
SIZES = measurements.Sizes(networks.SMALL, (48, 64), 64, runs=1, streams=STREAMS)
SETUP = measurements.Setup(sizes=SIZES)
# Of a stream of a GPU as TensorFlow's tracer names it, the copies, and the host.
STREAM = "/device:GPU:0/stream:"
HOST = "/job:localhost/replica:0/task:0/device:GPU:0"


def here(what, work, *args):
    return work(*args)


@pytest.fixture
def small(small_backbone, monkeypatch):
    """Measure a small backbone in this process, and in float32 alone."""
    monkeypatch.setattr(gpu, "PRECISIONS", ("float32",))
    monkeypatch.setattr(gpu, "choose_gpus", lambda gpus: None)
    monkeypatch.setattr(gpu, "TRAIN", ((2, 2),))
    monkeypatch.setattr(gpu, "TEST", ((7, False), (1, True)))


@pytest.mark.skipif(bool(session.gpus()), reason="there is a GPU")
def test_gpu_that_is_not_there(capsys, tmp_path):
    path = tmp_path / "gpu.json"
    assert benchmark.main(["--gpu", "--json", str(path)]) == 2
    printed = capsys.readouterr()
    measuring, error = printed.err.strip().split("\n")
    assert measuring == "measuring: the card" and printed.out == ""
    assert error.startswith("error: --gpu measures a GPU, and TensorFlow finds none")
    assert not os.path.exists(str(path))


def test_everything(small, tmp_path):
    kept = []

    def keep(figures):
        kept.append(json.dumps(figures))

    figures = gpu.measure(here, SETUP, str(tmp_path), keep, needs_gpu=False)
    assert len(kept) == 4 and json.loads(kept[-1]) == figures
    assert figures["precisions"] == ["float32"]
    parity = figures["parity"]["float32"]
    assert parity["error"] < 1e-4 and parity["iou"] > 0.999
    step = figures["train"]["float32"]["2_2"]
    assert 1000 < step["nodes"] < 20000 and step["host_ms"] > 0
    assert step["sentences_per_s"] == pytest.approx(2e3 / step["step_ms"])
    assert step["limit_per_s"] == figures["peak_gflops"]["float32"] / 490
    if not figures["gpus"]:
        assert step["kernels"] is step["device_ms"] is step["peak_mb"] is None
    tested = figures["test"]["float32"]["7"]
    assert tested["limit_per_s"] == figures["peak_gflops"]["float32"] / 253
    refined = figures["test"]["float32"]["1_crf"]
    assert refined["limit_per_s"] <= refined["crf_per_s"]
    lines = gpu.table(dict(figures, stack={"tensorflow": "2"})).split("\n")
    assert lines[0].endswith("; tensorflow 2") and lines[1].startswith("float32: 0.")
    rows = [" ".join(line.split()[:3]) for line in lines[3:]]
    assert rows == ["train float32 2_2", "test float32 7", "test float32 1_crf"]


def test_what_is_chosen(small, tmp_path):
    """A part alone needs nothing of the others; a precision that is missing is told."""
    chosen = ["train"], "float32", False
    figures = gpu.measure(here, SETUP, str(tmp_path), lambda figures: None, *chosen)
    assert list(figures["train"]["float32"]) == ["2_2"]
    assert figures["parity"] == figures["test"] == {} and not os.listdir(str(tmp_path))
    assert "against" not in gpu.table(dict(figures, stack={}))
    with pytest.raises(UserError, match="--precision tf32 needs"):
        gpu.device(SIZES, ["tf32"], False)


def test_what_fails_is_told_and_the_rest_measured(monkeypatch):
    """A card whose memory is too small for eight sentences."""
    monkeypatch.setattr(gpu, "TRAIN", ((8, 1), (1, 1)))
    monkeypatch.setattr(gpu, "TEST", ())
    card = {"gpus": [["H100", [9, 0]]], "precisions": ["float32", "float16"]}
    card["peak_gflops"] = {"float32": 49000.0, "float16": 98000.0}

    def alone(what, work, *args):
        if what == "the card":
            return dict(card)
        if work is gpu.answers:
            precision = args[0].precision
            return np.full([1, 2, 2], 2.0 if precision == "float32" else 2.1)
        if what == "train float32 8_1":
            raise UserError("the device has not enough memory")
        return {"sentences_per_s": 10.0, "step_ms": 100.0}

    figures = gpu.measure(alone, SETUP, "", lambda figures: None)
    assert figures["train"] == {
        "float32": {
            "8_1": {"failed": "the device has not enough memory", "limit_per_s": 100},
            "1_1": {"sentences_per_s": 10.0, "step_ms": 100.0, "limit_per_s": 100},
        }
    }
    assert figures["parity"]["float16"]["error"] == pytest.approx(0.05)
    lines = gpu.table(dict(figures, stack={"tensorflow": "2"})).split("\n")
    assert lines[0] == "H100 (9.0); tensorflow 2"
    assert lines[2] == (
        "float16: 98.0 TFLOP/s; against float32 of the CPU: error 5.0e-02, IoU 1.0000"
    )
    assert lines[4] == "train float32 8_1         the device has not enough memory"
    assert lines[5].split() == ["train", "float32", "1_1", "10.00", "100.0", "100.0"]


def test_parity_of_masks():
    right = np.array([[[1.0, -1.0]], [[-4.0, -1.0]], [[1.0, 2.0]]])
    found = np.array([[[1.0, 1.0]], [[-4.0, -1.0]], [[1.0, 2.0]]])
    assert gpu.parity(found, right) == {"error": 0.5, "iou": (0.5 + 1 + 1) / 3}


def test_a_step_taken_apart():
    """Two kernels overlap and a third runs alone: 3 + 4 us, while the host takes 9."""
    stats = tf.RunMetadata().step_stats
    nodes = {
        STREAM + "all": [(10, 2), (11, 2), (20, 4)],
        STREAM + "14": [(10, 2), (11, 2), (20, 4)],
        "/device:GPU:0/memcpy": [(0, 50)],
        HOST: [(5, 1), (6, 8)],
    }
    for name, spans in nodes.items():
        part = stats.dev_stats.add(device=name)
        for begin, length in spans:
            part.node_stats.add(all_start_micros=begin, op_end_rel_micros=length)
    found = gpu.taken_apart(stats)
    assert found == {"nodes": 2, "host_ms": 0.009, "kernels": 3, "device_ms": 0.007}
    del stats.dev_stats[:3]
    assert gpu.taken_apart(stats)["kernels"] is None


def test_a_device_without_enough_memory_is_one_line(small_backbone, monkeypatch):
    def fail(*args):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(gpu, "_train", fail)
    with pytest.raises(UserError, match="has not enough memory"):
        gpu.training(SETUP, 1, 1)


@pytest.mark.skipif(not session.gpus(), reason="no GPU here: its trace is not tested")
def test_a_step_on_a_gpu_shows_its_kernels(small_backbone):
    step = gpu.training(SETUP, 1, 1)
    assert 0 < step["device_ms"] <= step["step_ms"] and step["kernels"] > 500
    assert step["peak_mb"] > 0
