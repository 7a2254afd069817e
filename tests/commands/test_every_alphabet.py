"""A data set in a language with other letters: all commands, by both rules of words."""

import json

import numpy as np
import pytest
from networks import small_backbone
from PIL import Image

import build_batches
import trainval_model
from util import check, vocabulary
from util.data import datasets
from util.data.samples import open_samples
from util.training import start

BOX = [[10, 5, 50, 5, 50, 40, 10, 40]]
TRAINED = ["Красный круг слева.", "синий круг", "el niño pequeño"]
TESTED = ["красный nin\u0303o", "круг слева"]  # an accent of its own
TOLD = "warning: 2 of 2 sentences have letters beyond ASCII, as in 'красный'"
NETWORK = "--v-emb-dim 16 --mlp-dim 8 --backbone random --seed 1".split()
COMMON = ["-d", "mine", "-g", "-1", "--data", "data"]


@pytest.fixture(params=["unicode", "ascii"])
def rule(request, tmp_path, monkeypatch, capsys):
    """A rule by which a snapshot was trained, in the working folder."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(start, "CALIBRATION_IMAGES", 1)
    pixels = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype("uint8")
    Image.fromarray(pixels).save("a.png")
    entry = {"image": "a.png", "segmentation": BOX}
    entries = [
        dict(entry, split="train", sentences=TRAINED),
        dict(entry, split="val", sentences=TESTED),
    ]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    (tmp_path / "data").mkdir()
    words = ["--output", "data/vocabulary_mine.txt"]
    if request.param == "ascii":  # otherwise it is what the sentences need
        words += ["--words", "ascii"]
    assert vocabulary.main(["mine.json", *words]) == 0
    for split in ("train", "val"):
        source = ["--annotations", "mine.json", "--images", "."]
        options = ["-d", "mine", "-t", split, "--data", "data", "-j", "1", *source]
        capsys.readouterr()
        assert build_batches.main([*options, "--size", "64"]) == 0
    assert (TOLD in capsys.readouterr().err) == (request.param == "ascii")
    with small_backbone():
        assert run("train", "-t", "train", "-st", "1", *NETWORK) == 0
        yield request.param


def run(mode, *options):
    return trainval_model.main(["-m", mode, *COMMON, "-f", "ck", *options])


def test_all_commands_read_the_words_alike_or_say_that_they_cannot(
    rule, capsys, tmp_path
):
    words = (tmp_path / "data" / "vocabulary_mine.txt").read_text("utf-8").split("\n")
    reads_all = rule == "unicode"
    assert words[1] == ("<unicode>" if reads_all else "<go>")
    samples = open_samples(datasets.get("mine", "data").sample_dir("val"), "mine_val")
    stored = [samples.read(n)["text_batch"].tolist() for n in range(len(samples))]
    if reads_all:
        by_hand = [["красный", "niño"], ["круг", "слева"]]
        assert [[words[i] for i in ids if i] for ids in stored] == by_hand

    capsys.readouterr()
    assert run("test", "-t", "val", "--per-sample") == 0
    assert (TOLD in capsys.readouterr().err) != reads_all

    options = ["--image", "a.png", "--text", *TESTED, "--output", "found"]
    assert run("predict", *options) == 0
    assert (TOLD in capsys.readouterr().err) != reads_all
    lines = (tmp_path / "found" / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    if reads_all:
        found = [[word["text"] for word in row["words"]] for row in rows]
        assert found == by_hand
        assert all(word["known"] for row in rows for word in row["words"])
    foreign = [] if reads_all else ["красный", "niño"]
    assert rows[0].get("foreign_words", []) == foreign

    assert run("export", "--output", "exported") == 0
    said = json.loads((tmp_path / "exported" / "model.json").read_text())["words"]
    assert ("every alphabet" in said) == reads_all

    assert check.main(["-d", "mine", "--data", "data", "--backbone", "random"]) == 0
    assert ("every alphabet" in capsys.readouterr().out) == reads_all
