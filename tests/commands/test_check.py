"""util.check: what is there, what is missing, what is broken; and never a traceback."""

import collections
import json
import os

import numpy as np
import pytest
import tiny_sets

from util import check
from util.data import annotations, datasets
from util.data.build import build_samples
from util.graph import session
from util.graph.compat import tf

WHAT = ["annotations", "images", "masks", "samples"]
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The name -> bytes of a file of the backbone's weights, with two variables."""
    folder = tmp_path_factory.mktemp("weights")
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("conv1/weights", [7])
        tf.get_variable("bn2/scale", [7])
        tf.get_variable("fc/weights", [7])
        session.run(tf.global_variables_initializer())
        path = str(folder / "deeplab_resnet_init.ckpt")
        tf.train.Saver().save(session, path, write_meta_graph=False, write_state=False)
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "checkpoint"}


@pytest.fixture
def data(tmp_path, monkeypatch, weights):
    """The folder `data` with all that a run on `unc` needs."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    sizes = {"train": 4, "val": 2}
    unc = datasets.DATASETS["unc"]
    monkeypatch.setitem(datasets.DATASETS, "unc", check_splits(unc, sizes))
    root = tmp_path / "data"
    tiny_sets.write_unc(root)
    for split in sizes:
        build_samples(datasets.get("unc"), split, size=32)
    np.save(str(root / "Gref_emb.npy"), np.zeros((7, 5)))
    (root / "weights").mkdir()
    for name, content in weights.items():
        (root / "weights" / name).write_bytes(content)
    return root


def check_splits(dataset, splits):
    return datasets.dataclasses.replace(dataset, splits=splits)


def table(options="-d unc", code=0):
    """Run the command; return what -> row of the table that it writes."""
    assert check.main((options + " --json check.json").split()) == code
    with open("check.json") as file:
        written = json.load(file)
    assert written["ready"] == (code == 0)
    rows = {row["what"]: check.Row(**row) for row in written["rows"]}
    assert len(rows) == len(written["rows"])
    return rows


def test_all_is_there(data, capsys):
    rows = table()
    assert list(rows)[:8] == [w + " " + s for s in ("train", "val") for w in WHAT]
    status = {what: row.status for what, row in rows.items()}
    for what in ("GPU", "pydensecrf"):
        assert status.pop(what) in ("ok", "optional")
    assert set(status.values()) == {"ok"}
    found = rows["annotations train"].detail
    assert found == "4 sentences, as published, in data/refer/refcoco/refs(unc).p"
    found = rows["images train"].detail
    assert found == "2 files, 2 of them opened, in data/coco/images/train2014"
    assert rows["masks train"].detail == "3 objects, 3 of them decoded"
    folder = "data/unc/train_batch"
    assert rows["samples train"].detail == f"4 in {folder} (npz), 4 of them read"
    assert rows["vocabulary"].detail.startswith("7 words")
    assert rows["word vectors"].detail.startswith("7 of 5 numbers")
    assert rows["backbone"].detail.startswith("2 variables in data/weights")
    assert rows["TensorFlow"].detail.startswith(tf.VERSION)
    assert "--precision float32" in rows["TensorFlow"].detail
    assert rows["disk"].detail.endswith("nothing is left to build")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1 and lines[-1] == "a run can start"
    start = "ok        annotations train    4 sentences, as published, in "
    assert lines[0].startswith(start)


def test_nothing_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(str(tmp_path))
    rows = table(code=1)
    assert {rows[w + " testA"].status for w in WHAT} == {"missing"}
    for what in ("vocabulary", "backbone"):
        assert rows[what].status == "missing" and "data/README.md" in rows[what].todo
    assert rows["word vectors"].status == "optional"
    assert "python -m util.glove" in rows["word vectors"].todo
    assert rows["samples val"].todo == "python build_batches.py -d unc -t val"
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no run can start: 18 to mend"
    assert os.listdir(str(tmp_path)) == ["check.json"]


def test_one_split(data):
    (data / "unc" / "val_batch" / "unc_val_0.npz").unlink()
    assert "samples val" not in table("-d unc -t train")
    assert table("-d unc -t val", code=1)["samples val"].status == "broken"
    assert table(code=1)["samples train"].status == "ok"


def test_what_samples_are_built_from_is_optional_afterwards(data):
    (data / "refer" / "refcoco" / "refs(unc).p").unlink()
    rows = table()
    assert [rows[w + " val"].status for w in WHAT] == ["optional"] * 3 + ["ok"]


def test_backbone_is_optional_when_it_is_drawn(data):
    for file in (data / "weights").iterdir():
        file.unlink()
    row = table(code=1)["backbone"]
    assert row.status == "missing" and "data/README.md" in row.todo
    assert table("-d unc --backbone random")["backbone"].status == "optional"


def test_counts_other_than_the_published_ones(data, monkeypatch):
    unc = check_splits(datasets.DATASETS["unc"], {"train": 5})
    monkeypatch.setitem(datasets.DATASETS, "unc", unc)
    row = table()["annotations train"]  # samples are there: a run can start
    told = "4 sentences, but 5 are published"
    assert row.status == "optional" and row.detail == told
    row = table("-d unc --batches elsewhere", code=1)["annotations train"]
    assert row.status == "broken" and row.detail == told


def test_missing_images_are_counted(data):
    folder = data / "coco" / "images" / "train2014"
    (folder / "COCO_train2014_000000000003.jpg").unlink()
    row = table("-d unc --batches elsewhere", code=1)["images train"]
    assert row.status == "missing" and "1 of 2 are missing" in row.detail
    assert row.detail.endswith("000003.jpg")


def test_masks_in_files_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    tiny_sets.write_referit(tmp_path / "data")
    options = "-d referit -t test"
    assert table(options, 1)["masks test"].detail == "3 objects, 3 of them decoded"
    os.remove("data/referit/mask/22_1.mat")
    row = table(options, 1)["masks test"]
    assert row.status == "missing" and "1 of 3 are missing" in row.detail


def test_disk_is_compared_with_what_is_left_to_build(data, monkeypatch):
    unc = datasets.get("unc")
    space = check._space(unc, "val", annotations.referents(unc, "val"))
    assert space == (2 * 4 * 60 * 40, 3 * 60 * 40 + 60 * 40 // 8)
    space = check._space(unc, "train", annotations.referents(unc, "train"))
    assert space == (4 * 4 * 320**2, 2 * 3 * 320**2 + 3 * 320**2 // 8)
    for free, status in ((space.compact + 8100, "ok"), (space.compact, "missing")):
        usage = Usage(0, 0, free)
        monkeypatch.setattr(check.shutil, "disk_usage", lambda folder, u=usage: u)
        row = table("-d unc --batches elsewhere", code=1)["disk"]
        assert row.status == status and "0.0 GB, with --compact" in row.detail


def test_tensorflow_that_does_not_load(data, monkeypatch):
    def fail(precision):
        raise check.UserError("not here")

    monkeypatch.setattr(session, "require_precision", fail)
    assert table()["TensorFlow"].status == "ok"
    monkeypatch.delattr(check.sys.modules["util.graph"], "compat")
    monkeypatch.setitem(check.sys.modules, "util.graph.compat", None)
    rows = table(code=1)
    assert rows["TensorFlow"].status == "missing" and "backbone" not in rows


def test_packages_are_optional(data, monkeypatch):
    monkeypatch.setitem(check.sys.modules, "pydensecrf", None)
    row = table()["pydensecrf"]
    assert row.status == "optional" and "pip install pydensecrf2" in row.todo


def test_custom_data_set(data):
    entry = {"image": "a.jpg", "split": "val", "sentences": ["box"], "mask": "m.png"}
    (data / "mine.json").write_text(json.dumps([entry]))
    (data / "vocabulary_mine.txt").write_text("box\n")
    mine = datasets.custom("mine", "data/mine.json", "data/images", ["val"])
    datasets.remember(mine)
    rows = table("-d mine", code=1)
    found = rows["annotations val"].detail
    assert found.startswith("1 sentences, in /") and found.endswith("/mine.json")
    for what in ("images val", "masks val"):
        assert rows[what].status == "missing" and "Your own data" in rows[what].todo
    assert rows["vocabulary"].status == "broken"
    todo = "python -m util.vocabulary -d mine --output data/vocabulary_mine.txt"
    assert rows["vocabulary"].todo == todo


FILES = {  # path -> what must be told of it; optional where a run does without
    "refer/refcoco/refs(unc).p": "annotations train",
    "refer/refcoco/instances.json": "annotations train",
    "coco/images/train2014/COCO_train2014_000000000001.jpg": "images train",
    "vocabulary_Gref.txt": "vocabulary",
    "Gref_emb.npy": "word vectors",
    "weights/deeplab_resnet_init.ckpt.index": "backbone",
    "weights/deeplab_resnet_init.ckpt.data-00000-of-00001": "backbone",
    "unc/train_batch/unc_train_3.npz": "samples train",
    "unc/train_batch/build.json": "samples train",
}


@pytest.mark.parametrize("path", sorted(FILES))
def test_damaged_files_are_told_of(data, path, capsys):
    original = (data / path).read_bytes()
    damages = [b"", b"\x00\xff" * 40, b"{}", b"[[", original[: len(original) // 2]]
    if path.endswith(("_Gref.txt", ".data-00000-of-00001")):
        del damages[-1]  # half a vocabulary is one; the tiny weights end early enough
    for damage in damages:
        (data / path).write_bytes(damage)
        check.main("-d unc --json check.json".split())
        assert capsys.readouterr().err == ""
        with open("check.json") as file:
            rows = {row["what"]: row for row in json.load(file)["rows"]}
        row = rows[FILES[path]]
        built = FILES[path].split()[0] in ("annotations", "images", "word")
        assert row["status"] == ("optional" if built else "broken"), (damage, row)


@pytest.mark.parametrize(
    "options, told",
    [
        ("-d coco", "there is no data set 'coco'"),
        ("-d unc -t test", "unc has no split 'test'; choose from train, val"),
        ("-d unc --backbone vgg", "argument --backbone: invalid choice"),
        ("-t val", "arguments are required: -d"),
        ("-d unc -t val --json /dev/null/x", "cannot write"),
    ],
)
def test_wrong_command_lines_exit_with_2(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(str(tmp_path))
    try:
        code = check.main(options.split())
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr().err
    assert code == 2 and told in printed and printed.count("\n") == 1
