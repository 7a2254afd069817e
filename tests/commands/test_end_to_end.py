"""From annotations to results through the real command lines, each a new process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
from pages import Page
from PIL import Image

from util.core import quiet
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF

TOP = Path(__file__).resolve().parents[2]
TINY = "-n CMPC_model --v-emb-dim 16 --mlp-dim 8 -st 3 -s 2 -bs 2 --seed 1".split()
SNAPSHOT_FILES = (".index", ".data-00000-of-00001")
BOTH = [TITLES[WITHOUT_CRF], TITLES[WITH_CRF]]
OTHER = os.environ.get("REFSEG_OTHER_PYTHON")


def run(cwd, *command, python=sys.executable):
    """Run a script or module of the project's on the CPU and return what it prints."""
    script, *options = command
    start = ["-m", script] if script.startswith("util.") else [str(TOP / script)]
    found = subprocess.run(
        [python]
        + start
        + list(options)
        + (["-g", "-1"] if "trainval" in script else []),
        cwd=str(cwd),
        env=dict(os.environ, PYTHONPATH=str(TOP), TF_CPP_MIN_LOG_LEVEL="3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    lines = found.stderr.encode("utf-8").splitlines()
    assert not list(filter(quiet.NOISE.match, lines))
    return found.stdout


def train(cwd, dataset, split, *more):
    options = ["-m", "train", "-d", dataset, "-t", split, "-f", "ckpts"] + TINY
    return run(cwd, "trainval_model.py", *options, *more)


def evaluate(cwd, dataset, split, *more, **options):
    arguments = ["-m", "test", "-d", dataset, "-t", split, "-f", "ckpts"]
    return run(cwd, "trainval_model.py", *arguments, *more, **options)


def build(cwd, dataset, split, *more):
    return run(cwd, "build_batches.py", "-d", dataset, "-t", split, "-j", "1", *more)


def read_record(cwd, name):
    return json.loads((cwd / "ckpts" / name).read_text())


def snapshots(cwd):
    """Return the names of the snapshots that have both of their files."""
    found = [
        [path.name[: -len(end)] for path in sorted((cwd / "ckpts").glob("*" + end))]
        for end in SNAPSHOT_FILES
    ]
    assert found[0] == found[1]
    return found[0]


def link_snapshot(path, target):
    """Make a snapshot's two files appear under another name."""
    target.parent.mkdir(parents=True)
    for end in SNAPSHOT_FILES:
        os.symlink(str(path) + end, str(target) + end)


ON_THE_WAY = "--eval-steps 3 --eval-samples 1 --image-steps 2".split()


@pytest.fixture(scope="module")
def unc(tmp_path_factory):
    """A folder in which `unc` was built, trained on and tested.

    Yields:
      (folder, dict): what each command printed.
    """
    folder = tmp_path_factory.mktemp("unc")
    tiny_sets.write_unc(folder / "data")
    printed = {
        "train": build(folder, "unc", "train", "--size", "64"),
        "val": build(folder, "unc", "val"),
        "training": train(folder, "unc", "train", "--backbone", "random", *ON_THE_WAY),
    }
    # The newest snapshot, which is that of step 3.
    printed["testing"] = evaluate(folder, "unc", "val", "-c", "-v", "--report")
    yield folder, printed
    shutil.rmtree(str(folder))  # a snapshot has 170 MB


def test_samples_are_built(unc):
    folder, printed = unc
    assert "unc train: built, 4 samples in data/unc/train_batch" in printed["train"]
    assert "unc val: built, 2 samples in data/unc/val_batch" in printed["val"]
    with np.load(str(folder / "data/unc/train_batch/unc_train_0.npz")) as sample:
        assert sample["im_batch"].shape == (64, 64, 3)
        assert sample["sent_batch"].tolist() == ["Left box."]
    with np.load(str(folder / "data/unc/val_batch/unc_val_0.npz")) as sample:
        np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[103])


LOG = [
    r"model: CMPC_model, 42,716,472 parameters, 110,968 of them trained",
    r"samples: 4 of unc train, 64x64 pixels",
    r"devices: 1 a worker, workers: 1, precision: float32",
    r"batch: 2, until step 3, seed 1",
    r"backbone: drawn at random, .*",
    r"snapshot: ckpts/unc_iter_2\.tfmodel",
    r"iter = 3, loss \(cur\) = [\d.]+, loss \(avg\) = [\d.]+, lr = 0\.00025000",
    r"iter = 3, accuracy \(cur\) = [\d.]+ \(all\), [\d.]+ \(pos\), [\d.]+ \(neg\)",
    r"iter = 3, accuracy \(avg\) = [\d.]+ \(all\), [\d.]+ \(pos\), [\d.]+ \(neg\)",
    r"iter = 3, time = [\d.]+ s a step",
    r"snapshot: ckpts/unc_iter_3\.tfmodel",
    r"evaluation at step 3: overall IoU = [\d.]+; mean IoU = [\d.]+ \(oIoU; mIoU\)",
    r"best: ckpts/unc_iter_best\.tfmodel",
]


def test_training_prints_its_progress_and_leaves_snapshots(unc):
    folder, printed = unc
    lines = printed["training"].splitlines()
    assert len(lines) == len(LOG)
    for line, pattern in zip(lines, LOG):
        assert re.fullmatch(pattern, line), line
    # Guessing a half for each pixel costs 64 * 64 * log(2) = 2839.
    loss = float(re.search(r"loss \(cur\) = ([\d.]+)", printed["training"]).group(1))
    assert 100 < loss < 28000
    names = [f"unc_iter_{step}.tfmodel" for step in (2, 3, "best")]
    assert snapshots(folder) == names


LOGGED = (
    "step loss loss_c5 loss_c4 loss_c3 loss_all regularisation learning_rate "
    "accuracy_all accuracy_pos accuracy_neg loss_avg accuracy_all_avg "
    "accuracy_pos_avg accuracy_neg_avg sentences_per_s memory_mb skipped"
).split()


def test_training_explains_itself(unc):
    folder, printed = unc
    lines = (folder / "ckpts" / "log.jsonl").read_text().splitlines()
    (line,) = map(json.loads, lines)
    assert sorted(line) == sorted(LOGGED) and line["step"] == 3
    total = 0.7 * line["loss"] + 0.1 * sum(line["loss_c%d" % n] for n in (3, 4, 5))
    assert line["loss_all"] == pytest.approx(total, rel=1e-5)
    assert "loss (cur) = {:.4f}".format(line["loss"]) in printed["training"]
    scores = json.loads((folder / "ckpts" / "eval.jsonl").read_text())
    assert (scores["step"], scores["split"], scores["samples"]) == (3, "val", 1)
    assert "overall IoU = {overall_iou:.4f}".format(**scores) in printed["training"]
    assert os.listdir(str(folder / "ckpts" / "images")) == ["0000002.png"]
    record = json.loads((folder / "ckpts" / "run.json").read_text())
    assert (record["samples"], record["seed"], record["batch_size"]) == (4, 1, 2)
    assert "-bs" in record["command"] and record["network"]["v_emb_dim"] == 16
    words = (folder / "ckpts" / "vocabulary.txt").read_text().split()
    assert words == tiny_sets.WORDS


def test_testing_ends_in_both_blocks(unc):
    folder, printed = unc
    lines = printed["testing"].splitlines()
    starts = [lines.index(f"Segmentation evaluation ({title}):") for title in BOTH]
    for start in starts:
        for line, threshold in zip(lines[start + 1 :], "56789"):
            assert re.fullmatch(rf"precision@0\.{threshold} = \d\.\d{{4}}", line)
        form = r"overall IoU = \d\.\d{4}; mean IoU = \d\.\d{4}"
        assert re.fullmatch(form, lines[start + 6])
    assert lines[-3:] == [
        "results: ckpts/unc_iter_3.tfmodel.val.json",
        "(overall IoU is also called oIoU or cIoU, mean IoU mIoU or gIoU)",
        "report: ckpts/unc_iter_3.tfmodel.val.html",
    ]


def test_record_has_the_figures_that_were_printed(unc):
    folder, printed = unc
    record = read_record(folder, "unc_iter_3.tfmodel.val.json")
    assert (record["data_set"], record["split"]) == ("unc", "val")
    assert record["snapshot"] == "ckpts/unc_iter_3.tfmodel"
    assert [sample["number"] for sample in record["samples"]] == [0, 1]
    assert list(record["results"]) == BOTH
    for title, scores in record["results"].items():
        assert scores["count"] == 2
        line = "overall IoU = {overall_iou:.4f}; mean IoU = {mean_iou:.4f}"
        assert line.format(**scores) in printed["testing"]
        counts = [sample[title] for sample in record["samples"]]
        for count in counts:
            assert 0 <= count["intersection"] <= tiny_sets.MASKS[103].sum()
            assert tiny_sets.MASKS[103].sum() <= count["union"] <= 60 * 40
        overlap = sum(count["intersection"] for count in counts)
        union = sum(count["union"] for count in counts)
        assert scores["overall_iou"] == pytest.approx(overlap / union)


def test_each_result_is_drawn(unc):
    images = unc[0] / "ckpts" / "unc_iter_3.tfmodel.val"
    assert sorted(os.listdir(str(images))) == ["000000.png", "000001.png"]
    for path in images.iterdir():
        with Image.open(str(path)) as image:
            # Three panels side by side, and the tall image enlarged.
            assert image.width > 3 * 240 > image.height > 240


def test_report_shows_the_examples(unc):
    path = unc[0] / "ckpts" / "unc_iter_3.tfmodel.val.html"
    page = Page(path.read_text(encoding="utf-8"))
    page.check_harmless()
    assert len(page.all("article")) == 2 and len(page.all("figure")) == 2 * 4
    assert not page.all("strong")  # the masks are those of the test


def test_commands_leave_nothing_else(unc):
    folder, _ = unc
    found = {path.name for path in folder.iterdir()}
    assert found == {"data", "ckpts"}
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*tempstate*"))


@pytest.mark.skipif(
    OTHER is None,
    reason="REFSEG_OTHER_PYTHON does not name an interpreter with the other TensorFlow",
)
def test_snapshot_gives_the_same_on_the_other_stack(unc, tmp_path):
    folder, _ = unc
    ours = read_record(folder, "unc_iter_3.tfmodel.val.json")
    os.symlink(str(folder / "data"), str(tmp_path / "data"))
    name = os.path.join("ckpts", "unc_iter_3.tfmodel")
    link_snapshot(folder / name, tmp_path / name)
    evaluate(tmp_path, "unc", "val", "-c", "--per-sample", python=OTHER)
    theirs = read_record(tmp_path, "unc_iter_3.tfmodel.val.json")
    major = [record["versions"]["tensorflow"][0] for record in (ours, theirs)]
    assert sorted(major) == ["1", "2"]
    for here, there in zip(ours["samples"], theirs["samples"]):
        for title in BOTH:
            for key, count in here[title].items():
                # A logit within rounding of 0 may fall on either side; each cell
                # that it moves is worth about one pixel of so small an image.
                assert abs(count - there[title][key]) <= 3, (title, key)


GLOVE = "the 0.5 -1.0 0.25 1.5\nleft 1.0 2.0 3.0 -0.5\nzebra 0.1 0.2 0.3 0.4\n"


@pytest.fixture(scope="module")
def referit(unc, tmp_path_factory):
    """The same for `referit`, all in the way of the reference's users.

    Backbone weights and word vectors come from files, and the samples lie in the
    folder of the reference. Yields what `unc` does.
    """
    folder = tmp_path_factory.mktemp("referit")
    data = folder / "data"
    tiny_sets.write_referit(data)
    queries = (data / "referit_query_test.json").read_text()
    (data / "referit_query_trainval.json").write_text(queries)
    (data / "glove.txt").write_text(GLOVE)
    link_snapshot(
        unc[0] / "ckpts" / "unc_iter_3.tfmodel",
        data / "weights" / "deeplab_resnet_init.ckpt",
    )
    build(folder, "referit", "trainval", "--size", "64")
    elsewhere = ["--batches", "samples"]
    build(folder, "referit", "test", *elsewhere)
    (data / "referit" / "trainval_batch" / "build.json").unlink()
    os.makedirs(str(folder / "referit"))
    shutil.move(str(data / "referit" / "trainval_batch"), str(folder / "referit"))
    printed = {
        "glove": run(folder, "util.glove", "data/glove.txt", "-d", "referit"),
        "training": train(folder, "referit", "trainval", "-emb", "-s", "5"),
        "testing": evaluate(folder, "referit", "test", "-i", "3", *elsewhere),
    }
    yield folder, printed
    shutil.rmtree(str(folder))


def test_referit_starts_from_files(referit):
    folder, printed = referit
    # <pad> and "zebra" aside, 2 of 7 words have a vector.
    assert printed["glove"].startswith("2 of 7 words found")
    loaded = (
        "backbone: 520 of 520 variables loaded from data/weights/deeplab_resnet_init"
    )
    assert loaded in printed["training"]
    assert snapshots(folder) == ["referit_iter_3.tfmodel"]


def test_referit_is_tested_without_crf(referit):
    folder, printed = referit
    assert "Segmentation evaluation (without DenseCRF):" in printed["testing"]
    assert "(with DenseCRF)" not in printed["testing"]
    record = read_record(folder, "referit_iter_3.tfmodel.test.json")
    assert record["results"]["without DenseCRF"]["count"] == 4
    assert "samples" not in record
    assert not (folder / "ckpts" / "referit_iter_3.tfmodel.test").exists()


def test_word_vectors_and_backbone_are_those_of_the_files(unc, referit):
    """Read from the snapshots; Adam moves a value by at most 0.00025 a step."""
    from util.graph.compat import tf

    read = {}
    for name, (folder, _) in (("unc", unc), ("referit", referit)):
        path = str(folder / "ckpts" / (name + "_iter_3.tfmodel"))
        read[name] = tf.train.NewCheckpointReader(path)
    table = read["referit"].get_tensor("text_objseg/Variable")
    vectors = np.load(str(referit[0] / "data" / "referit_emb.npy"))
    assert vectors.shape == (7, 4)
    np.testing.assert_allclose(table, vectors, atol=3 * 0.00026)
    assert np.abs(table - vectors).max() > 0
    for variable in ("res5c_branch2c/weights", "bn4b3_branch2a/moving_variance"):
        here, there = (read[name].get_tensor(variable) for name in ("unc", "referit"))
        np.testing.assert_array_equal(here, there)
    assert read["referit"].get_tensor("text_objseg/Variable_1") == 3
