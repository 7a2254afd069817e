"""util.benchmark: everything once, at tiny sizes; no time is asserted."""

import contextlib
import json
import math
import os
import shutil
import tempfile
import time

import networks
import numpy as np
import pytest

from util import benchmark
from util.bench import comparison, load_test, measurements, scaling, workload
from util.core.errors import UserError
from util.data import datasets
from util.data.build import build_samples
from util.data.samples import read_sample, sample_file
from util.graph.compat import tf
from util.models import references
from util.training import feature_cache

SIZES = measurements.Sizes(
    network=networks.SMALL,
    image=(48, 64),
    product=64,
    runs=1,
    streams={1: 2, 7: 1},
    prepared=3,
    prepared_singly=2,
)
SETUP = measurements.Setup(sizes=SIZES)
KEYS = {"peak_gflops", "test", "train", "prepare", "start_s", "stack", "precision"}
KEYS |= {"second_sentence", "xla"}


def numbers(figures):
    """Return all numbers in the figures."""
    if isinstance(figures, dict):
        return [n for value in figures.values() for n in numbers(value)]
    return [figures] if isinstance(figures, (int, float)) else []


@pytest.fixture
def small(monkeypatch):
    """Measure networks with a small backbone, in each of the processes."""
    alone = benchmark.alone

    def alone_and_small(what, figures, work, *args):
        return alone(what, figures, networks.with_small_backbone, work, *args)

    monkeypatch.setattr(benchmark, "alone", alone_and_small)


@pytest.fixture
def small_and_here(monkeypatch):
    """The same in this process, which has loaded TensorFlow already."""

    def here(what, figures, work, *args):
        args = [arg() if arg is time.time else arg for arg in args]
        small = networks.with_small_backbone, (work, *args)
        result, figures["stack"] = benchmark._silently(*small)
        return result

    monkeypatch.setattr(benchmark, "alone", here)


def check_networks(cases, names):
    assert list(cases) == list(names)
    is_full = shutil.disk_usage(tempfile.gettempdir()).free < 1.1 * feature_cache.FREE
    for name, case in cases.items():
        if case is None:  # the processes that measure keep to the real limit
            assert is_full and "cached" in name
            continue
        assert set(case) == {"sentences_per_s", "work_rate", "peak_mb"}


def test_cases_are_those_of_the_json():
    assert list(benchmark.TEST) == ["1", "7", "1_crf", "7_crf"]
    assert list(benchmark.TRAIN) == ["1", "4", "1_cached", "4_cached"]


def test_everything(small_and_here, tmp_path, capsys, monkeypatch):
    # Each case takes seconds, and the others differ little from it.
    for part, chosen in (("TEST", ["7_crf"]), ("TRAIN", ["4", "4_cached"])):
        cases = getattr(benchmark, part)
        monkeypatch.setattr(benchmark, part, {name: cases[name] for name in chosen})
    path = tmp_path / "speed.json"
    assert benchmark.main(["--json", str(path)], SIZES) == 0
    figures = json.loads(path.read_text())
    assert set(figures) == KEYS and os.listdir(str(tmp_path)) == ["speed.json"]
    check_networks(figures["test"], ["7_crf"])
    check_networks(figures["train"], ["4", "4_cached"])
    assert set(figures["prepare"]) == {"npz", "compact", "reference"}
    assert set(figures["second_sentence"]) == {"first_s", "second_s", "ratio"}
    for layout in figures["prepare"].values():
        assert set(layout) == {"pictures_per_s", "bytes_per_sample"}
    assert all(math.isfinite(n) and n > 0 for n in numbers(dict(figures, xla=1)))
    assert {"tensorflow", "python", "cores"} <= set(figures["stack"])
    assert (figures["precision"], figures["xla"]) == ("float32", False)
    printed = capsys.readouterr().out
    for row in ("test 7_crf ", "train 4_cached ", "compact ", "first sentence on "):
        assert "\n" + row in printed


def test_several_sentences_an_image(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "GROUPED", {"8_8": benchmark.GROUPED["8_8"]})
    path = tmp_path / "speed.json"
    assert benchmark.main(["--only", "grouped", "--json", str(path)], SIZES) == 0
    figures = json.loads(path.read_text())
    check_networks(figures["grouped"], ["8_8"])
    ((seconds,),) = figures["in_turn"]["seconds"].values()
    assert seconds > 0 and figures["in_turn"]["times_as_many"] == {"8_8": 1.0}
    assert figures["train"] is None
    assert "\ngrouped 8_8 " in capsys.readouterr().out


def test_steps_are_taken_in_turn(monkeypatch):
    taken = []

    @contextlib.contextmanager
    def training(setup, batch_size, sentences_per_image):
        def step():
            taken.append((batch_size, sentences_per_image))
            return float(len(taken))

        yield step

    monkeypatch.setattr(measurements, "_training", training)
    setup = SETUP._replace(sizes=SIZES._replace(runs=2))
    cases = [(8, 1), (8, 4)]
    assert measurements.times_in_turn(setup, cases) == [[3.0, 4.0], [5.0, 6.0]]
    assert taken == cases * 3


def test_cases_in_turn_are_compared_by_the_medians_of_rounds(monkeypatch, capsys):
    rounds = [[8.0, 5.0, 4.0], [9.0, 5.0, 3.0], [6.0, 2.0, 3.0]]
    monkeypatch.setattr(benchmark, "alone", lambda what, figures, *work: rounds)
    found = benchmark._in_turn({}, SETUP)
    assert found["seconds"]["8_4"] == (5.0, 5.0, 2.0)
    assert found["times_as_many"] == {"8_1": 1.0, "8_4": 1.8, "8_8": 2.0}
    figures = dict.fromkeys(KEYS, None)
    figures.update(in_turn=found, stack={"tensorflow": "2.21.0"}, precision="float32")
    line, _ = benchmark.table(figures, "CMPC_model").splitlines()
    assert line == "in turn: 8_4 1.80, 8_8 2.00 times the sentences a second of 8_1"


def test_models_side_by_side(small_and_here, tmp_path, capsys, monkeypatch):
    cases = comparison.CASES[1], comparison.CASES[-3]
    monkeypatch.setattr(comparison, "CASES", cases)
    path = tmp_path / "models.json"
    assert benchmark.main(["--models", "--json", str(path)], SIZES) == 0
    found = json.loads(path.read_text())["models"]
    assert [one["name"] for one in found] == [
        "CMPC_model --refine score",
        "STEP_model --folds 1",
    ]
    assert all(0 < one["more_gflop"] < one["gflop"] for one in found)
    assert all(n > 0 for n in numbers(found[0]))
    assert "| `-n CMPC_model --refine score` | " in capsys.readouterr().out


def test_work_of_known_operations():
    with tf.Graph().as_default() as graph:
        left, right = tf.zeros([3, 5, 7]), tf.zeros([3, 7, 2])
        tf.matmul(left, right)
        tf.matmul(tf.zeros([7, 5]), tf.zeros([7, 2]), transpose_a=True)
        tf.nn.conv2d(tf.zeros([1, 8, 8, 4]), tf.zeros([3, 3, 4, 6]), 1, "SAME")
        work = sum(map(comparison._work, graph.get_operations()))
    assert work == 2 * (3 * 5 * 7 * 2 + 5 * 7 * 2 + 64 * 9 * 4 * 6)


def test_only_what_is_asked_for(capsys):
    assert benchmark.main(["--only", "prepare"], SIZES) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("prepare ") and "GFLOP" not in printed


def test_what_is_not_measured_is_none():
    figures = benchmark.measure(["prepare"], SETUP)
    assert set(figures) == KEYS
    left_out = KEYS - {"prepare", "stack", "precision", "xla"}
    assert {key for key in KEYS if figures[key] is None} == left_out


def test_work_rate_and_ratio_to_the_reference(monkeypatch, capsys):
    """A machine of 100 GFLOP/s that tests as the reference does."""
    case = {"sentences_per_s": 70 / 253, "peak_mb": 1.0, "peak_gflops": 100.0}
    monkeypatch.setattr(benchmark, "alone", lambda *args: dict(case))
    peaks = []
    found = benchmark._networks("test", benchmark.TEST, {}, peaks, SETUP, "")
    assert found["7"]["work_rate"] == pytest.approx(0.7) and peaks == [100.0] * 4
    row = benchmark._network_row(references.of("CMPC_model"), "test", "7", found["7"])
    assert row == ("0.277", "0.70", "0.70", "1.00", "1", "")


def test_model_without_a_reference_is_measured_alone(monkeypatch):
    case = {"sentences_per_s": 0.5, "peak_mb": 1.0, "peak_gflops": 100.0}
    monkeypatch.setattr(benchmark, "alone", lambda *args: dict(case))
    setup = SETUP._replace(model="toy_model")
    found = benchmark._networks("train", benchmark.TRAIN, {}, [], setup, "")
    assert found["1"]["work_rate"] is None
    row = benchmark._network_row(references.of("toy_model"), "train", "1", found["1"])
    assert row == ("0.500", "", "", "", "1", "")


def test_full_disk_leaves_out_the_cached_cases(
    small_backbone, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(feature_cache, "FREE", 10**18)
    assert measurements.training_steps(SETUP, str(tmp_path), 1, True) is None
    monkeypatch.setattr(benchmark, "alone", lambda *args: None)
    train = benchmark._networks("train", {"1_cached": (1, True)}, {}, [], SETUP, "")
    assert train == {"1_cached": None}
    assert "less than 10 GB" in capsys.readouterr().err
    figures = dict.fromkeys(KEYS, None)
    figures.update(train=train, stack={"python": "3"}, precision="float32", xla=False)
    assert "train 1_cached   not measured" in benchmark.table(figures, SETUP.model)


def test_samples_of_the_reference_are_those_of_ours(tmp_path):
    root, theirs = str(tmp_path / "data"), tmp_path / "theirs"
    theirs.mkdir()
    workload.draw_images(root, 1, 48, 64)
    workload.build_singly(root, str(theirs), 1, 64)
    ours = build_samples(datasets.get("unc", root), "train", size=64)
    assert len(list(theirs.iterdir())) == 7
    for n in range(7):
        sample = read_sample(sample_file(ours, "unc_train", n))
        with np.load(str(theirs / f"unc_train_{n}.npz")) as other:
            np.testing.assert_array_equal(sample["text_batch"], other["text_batch"])
            assert (sample["mask_batch"] == other["mask_batch"]).mean() > 0.99
            difference = sample["im_batch"].astype(int) - other["im_batch"]
            assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    "options, told",
    [
        (
            "--only tests",
            "--only: 'tests' is not a list of test, train, prepare, grouped",
        ),
        ("--only test,", "--only: 'test,' is not a list"),
        ("--precision half", "--precision: invalid choice"),
        ("-n RMI_model", "-n: invalid choice"),
    ],
)
def test_wrong_options(capsys, options, told):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(options.split())
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and told in printed
    assert printed.count("\n") == 1


def test_json_that_cannot_be_written_is_told_at_once(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "missing" / "speed.json"):
        assert benchmark.main(["--json", str(path)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: cannot write {path}")
        assert printed.err.count("\n") == 1 and printed.out == ""


def test_precision_that_is_not_there(capsys, tmp_path):
    setup = SETUP._replace(precision="tf32")
    with pytest.raises(UserError, match="--precision tf32 needs"):
        benchmark.alone("x", {}, measurements.make_snapshot, setup, str(tmp_path))


def test_xla_that_would_change_nothing(capsys):
    assert benchmark.main(["--only", "test", "--xla"], SIZES) == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("error: --xla compiles for GPUs, and TensorFlow finds none")


def test_xla_with_what_has_no_network_of_its_own(capsys):
    assert benchmark.main(["--serve", "--xla"]) == 2
    assert "error: --xla is for tests, training" in capsys.readouterr().err


def test_training_in_float16(tmp_path):
    setup = SETUP._replace(precision="float16")
    with pytest.raises(UserError, match="float16 is not for training"):
        measurements.training_steps(setup, str(tmp_path), 1, False)


def test_process_that_is_killed():
    with pytest.raises(UserError, match="measured x was killed"):
        benchmark.alone("x", {}, os._exit, 9)


def test_two_workers_are_compared_with_one(monkeypatch, tmp_path, capsys):
    measured = {"1": 5.0, "2": 9.0, "ratio": 1.8}
    monkeypatch.setattr(scaling, "measure", lambda: dict(measured))
    path = tmp_path / "speed.json"
    assert benchmark.main(["--distributed", "--json", str(path)]) == 0
    assert json.loads(path.read_text()) == {"distributed": measured}
    assert capsys.readouterr().out == (
        "distributed training: 5.00 sentences a second with 1 worker, 9.00 with 2: "
        "1.80 times\n"
    )


def test_two_workers_need_two_cores(monkeypatch, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert benchmark.main(["--distributed"]) == 2
    assert "error: --distributed needs two cores" in capsys.readouterr().err


def test_a_server_is_started_asked_and_ended(monkeypatch, tmp_path):
    """A stand-in for trainval_model.py prints where its page is, and waits."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "print('the page: http://127.0.0.1:' + sys.argv[-1], '(Ctrl-C ends)')\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(scaling, "command_line", lambda: str(script))
    with load_test.running_server(str(tmp_path / "x_iter_1.tfmodel")) as (url, process):
        assert url.startswith("http://127.0.0.1:") and process.poll() is None
    assert process.poll() is not None
    script.write_text("")
    with pytest.raises(UserError, match="the server did not start"):
        with load_test.running_server(str(tmp_path / "x_iter_1.tfmodel")):
            pass
