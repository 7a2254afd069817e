"""What the code wrote before its modules moved still loads, and means the same.

before_house/README.md says what made the files, and what is in expected.json.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
from networks import small_backbone
from PIL import Image

import trainval_model
from util.data import vocabularies
from util.data.samples import open_samples
from util.graph import checkpoint
from util.inference.predictor import Predictor

HERE = Path(__file__).resolve().parent
OLD = HERE / "before_house"
TRAINING = (
    "-d shapes -t train -emb --v-emb-dim 8 --mlp-dim 8 -g -1 --threads 1 -bs 2"
    " --keep-prob-rnn 0.8 --keep-prob-emb 0.9 --seed 4 -lr 0.003"
).split()
STEP = 800  # of the snapshot
SNAPSHOT = "shapes_iter_800.tfmodel"
RECORD = SNAPSHOT + ".val.json"
CLOSE = 1e-5  # relative; TensorFlow 1.15 and 2.21 differ by 6e-7
PIXELS = 5  # on the edge of a mask of 3000
WITHOUT, WITH = "without DenseCRF", "with DenseCRF"


@pytest.fixture
def old(tmp_path):
    """A copy of the files, which tests may write to."""
    return Path(shutil.copytree(str(OLD), str(tmp_path / "old")))


@pytest.fixture(scope="module")
def expected():
    return json.loads((OLD / "expected.json").read_text())


def start(*command):
    """Run Python from the top of the project; return what it printed and told."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=str(HERE.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    return runs.finish(process)


@pytest.fixture
def trainval(old, capsys):
    """Runs trainval_model.py on the old snapshot; returns what it printed and told.

    In this process, since TensorFlow takes seconds to load.
    """

    def run(mode, *options):
        where = ["--data", old / "data", "-f", old / "ckpts", "-i", STEP, "-g", "-1"]
        command = ["-m", mode, "-d", "shapes", *where, *options]
        with small_backbone():
            assert trainval_model.main(list(map(str, command))) == 0
        return capsys.readouterr()

    return run


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def without_numbers(text):
    return re.sub(r"\d+\.\d+", "#", text)


def assert_close(found, wanted):
    """Compare what JSON can hold, its numbers nearly."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for key in wanted:
            assert_close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert_close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=CLOSE, abs=CLOSE)
    else:
        assert found == wanted


def test_a_resumed_run_has_the_size_of_its_snapshot(old):
    folder = old / "ckpts"
    options = "-d shapes -t train -g -1 --threads 1 --resume -st 801".split()
    more = ["--data", str(old / "data"), "-f", str(folder)]
    out, _ = runs.finish(runs.start(1, options + more))
    assert f"snapshot: {folder / 'shapes_iter_801.tfmodel'}\n" in out
    network = json.loads((folder / "run.json").read_text())["resumed"][0]["network"]
    assert (network["v_emb_dim"], network["mlp_dim"]) == (8, 8)


def test_training_goes_on_from_the_old_snapshot(old, expected):
    folder, wanted = old / "ckpts", expected["resumed"]
    more = ["--data", str(old / "data"), "-f", str(folder), "--resume", "-st", "803"]
    out, _ = runs.finish(runs.start(1, TRAINING + more))
    assert f"resumed: {folder / SNAPSHOT}\n" in out
    before = runs.read_log(OLD / "ckpts")
    log = runs.read_log(folder)
    assert [line["step"] for line in log[len(before) :]] == [801, 802, 803]
    assert log[: len(before)] == before
    assert_close(runs.of_the_run(log[len(before) :]), wanted["log"])
    state = json.loads((folder / "shapes_iter_803.tfmodel.state.json").read_text())
    words = str(old / "data" / "vocabulary_shapes.txt")
    # New since then:
    assert state.pop("vocabulary") == vocabularies.checksum(words)
    assert (state.pop("options"), state.pop("sentences_per_image")) == ({}, 1)
    assert_close(state, wanted["state"])
    figures = [s for s in out.splitlines() if s.startswith("iter") and "time" not in s]
    printed = list(map("\n".join, (figures, wanted["printed"])))
    assert without_numbers(printed[0]) == without_numbers(printed[1])
    assert numbers(printed[0]) == pytest.approx(numbers(printed[1]), rel=CLOSE)
    record = json.loads((folder / "run.json").read_text())
    (resumed,) = record.pop("resumed")
    assert record == json.loads((OLD / "ckpts" / "run.json").read_text())
    assert resumed["step"] == STEP
    assert resumed["network"].pop("warm_up") == 0
    assert dict(resumed["network"], optimizer="adam") == record["network"]


def test_a_test_of_the_old_snapshot_gives_the_old_figures(old, trainval, expected):
    out, _ = trainval("test", "-t", "val", "--per-sample")
    wanted, block = expected["test"], out.split("results:")[0]
    assert without_numbers(block) == without_numbers(wanted["block"])
    assert numbers(block) == pytest.approx(numbers(wanted["block"]), abs=1e-3)
    record = json.loads((old / "ckpts" / RECORD).read_text())
    first = json.loads((OLD / "ckpts" / RECORD).read_text())
    new = {"model", "options", "empty_below", "weights", "intervals"}
    new |= {"precision", "xla"}
    assert set(record) == {*first, *new}
    assert record["weights"] == checkpoint.fingerprint(str(old / "ckpts" / SNAPSHOT))
    assert record["results"][WITHOUT] == pytest.approx(
        wanted["results"][WITHOUT], abs=1e-3
    )
    assert len(record["samples"]) == len(wanted["samples"]) == 8
    for found, row in zip(record["samples"], wanted["samples"]):
        row["image"] = row.pop("picture")  # as it is called now
        assert found.pop(WITHOUT) == pytest.approx(row.pop(WITHOUT), abs=PIXELS)
        assert found == row


def test_the_old_snapshot_finds_the_same(old, expected):
    wanted = expected["find"]
    samples = open_samples(str(old / "data" / "shapes" / "val_batch"), "shapes_val")
    sample = samples.read(wanted["sample"])
    assert sample["sent_batch"] == [wanted["sentence"]]
    assert sample["text_batch"].tolist() == wanted["ids"]
    snapshot = str(old / "ckpts" / SNAPSHOT)
    with small_backbone(), Predictor(snapshot) as predictor:
        assert predictor.ids(wanted["sentence"]).tolist() == wanted["ids"]
        predictor.set_image(sample["im_batch"])
        found = predictor.find(sample["text_batch"][np.newaxis])
    (logits,) = found.logits
    assert logits.shape == (48, 48)
    assert_close(logits[::8, ::8].tolist(), wanted["logits_every_8th"])
    assert logits.sum(dtype=np.float64) == pytest.approx(wanted["sum"], rel=CLOSE)
    weights = found.word_weights[0, -len(wanted["word_weights"]) :]
    assert_close(weights.tolist(), wanted["word_weights"])


def test_a_prediction_with_the_old_snapshot_is_the_old_one(old, trainval, tmp_path):
    wanted = json.loads((OLD / "found" / "predictions.jsonl").read_text())
    image, output = old / wanted["picture"], tmp_path / "found"
    options = ["--image", image, "--text", wanted["sentence"], "--output", output]
    out, _ = trainval("predict", *options)
    assert out.startswith("1 of 1 sentences segmented")
    row = json.loads((output / "predictions.jsonl").read_text())
    wanted["image"] = wanted.pop("picture")  # as it is called now
    assert set(row) == set(wanted)
    assert row.pop("image") == str(image)
    area = wanted["area"]
    assert row.pop("area") == pytest.approx(area, abs=PIXELS)
    assert row.pop("box") == pytest.approx(wanted["box"], abs=1)
    assert row.pop("mean_probability") == pytest.approx(
        wanted["mean_probability"], abs=1e-3
    )
    assert row.pop("seconds") > 0
    assert_close(row, {key: wanted[key] for key in row})
    masks = [
        np.asarray(Image.open(str(folder / wanted["mask"])))
        for folder in (output, OLD / "found")
    ]
    assert np.count_nonzero(masks[1]) == area
    assert np.count_nonzero(masks[0] != masks[1]) <= PIXELS


def test_both_old_layouts_hold_the_same_samples(old):
    each, compact = (
        open_samples(str(old / root / "shapes" / "train_batch"), "shapes_train")
        for root in ("data", "compact")
    )
    assert (each.layout, compact.layout) == ("npz", "compact")
    assert len(each) == len(compact) == 16
    for number in range(16):
        one, other = each.read(number), compact.read(number)
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], key)
            assert type(one[key]) is type(other[key])
    assert one["im_batch"].shape == (48, 48, 3) and one["im_batch"].std() > 10
    assert 0 < one["mask_batch"].sum() < 48 * 48


@pytest.mark.parametrize(
    "root, options",
    [
        ("data", "-t train --size 48"),
        ("compact", "-t train --size 48 --compact"),
        ("data", "-t val --compact"),
    ],
)
def test_old_samples_count_as_built(old, root, options):
    where = ["--data", old / "data", "--batches", old / root]
    out, _ = start("build_batches.py", "-d", "shapes", *options.split(), *where)
    assert ": already complete, " in out


def test_the_report_reads_the_old_record(old, trainval):
    pytest.importorskip("matplotlib")
    record = json.loads((old / "ckpts" / RECORD).read_text())
    out, err = trainval("report", "-t", "val")
    assert "report: " in out and "warning" not in err
    html = (old / "ckpts" / (SNAPSHOT + ".val.html")).read_text(encoding="utf-8")
    for title in (WITHOUT, WITH):
        for figure in ("overall_iou", "mean_iou"):
            value = "{:.2f}".format(100 * record["results"][title][figure])
            assert f"<td>{value}</td>" in html
    assert "Was the snapshot replaced since?" not in html
    assert html.count("<article") == 8  # sentences with their cases


def test_two_old_records_side_by_side(old, tmp_path):
    pytest.importorskip("matplotlib")
    record = str(old / "ckpts" / RECORD)
    output = tmp_path / "both.html"
    compare = ["--compare", record, record, "--output", str(output)]
    start("trainval_model.py", "-m", "report", *compare)
    assert "+0.00" in output.read_text(encoding="utf-8")
