"""The page "Predict, correct, fine-tune" of util/deploy/README.md, command by command.

The label tool in the middle is played by the test.
"""

import importlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny_sets
from networks import small_backbone
from on_disk import read_all
from PIL import Image
from pycocotools.coco import COCO

from util.data import im_processing, text_processing

TOP = Path(__file__).resolve().parents[2]
OLD = TOP / "tests" / "before_house"
HEIGHT, WIDTH = 197, 157  # of the scene
SIDE = 48  # of the samples that the snapshot was trained on
ORANGE, LARGE = "the large orange circle", "the large circle"
NEW, RUSSIAN = "the dotted square", "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 circle"
STORED_TURNED = 6  # EXIF: to be turned clockwise


def commands():
    """Return the commands of the page, in their order."""
    text = (TOP / "util" / "deploy" / "README.md").read_text(encoding="utf-8")
    page = text.split("\n## Predict, correct, fine-tune\n")[1].split("\n## ")[0]
    return [line for line in page.splitlines() if line.startswith("python ")]


def start(command, *more):
    """Run a command in this process, which must succeed."""
    _, *words = shlex.split(command)
    module, options = words[0].replace(".py", ""), words[1:]
    if module == "-m":
        module, *options = options
    with small_backbone():
        assert importlib.import_module(module).main([*options, *more]) == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: a snapshot and photographs, two of them stored turned."""
    run = tmp_path / "ckpts" / "shapes" / "demo"
    run.mkdir(parents=True)
    for file in (OLD / "ckpts").iterdir():
        name = file.name.replace("shapes_iter_800", "shapes_iter_10000")
        shutil.copy(str(file), str(run / name))
    scene = str(OLD / "data" / "shapes" / "images" / "000000000001.jpg")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    shutil.copy(scene, str(tmp_path / "photos" / "a.jpg"))
    exif = Image.Exif()
    exif[0x0112] = STORED_TURNED
    with Image.open(scene) as image:
        for name in ("b.jpg", "more/b.jpg"):
            path = str(tmp_path / "photos" / name)
            image.transpose(Image.ROTATE_90).save(path, exif=exif, quality=95)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    return tmp_path


def corrected(path):
    """Return what a label tool makes of a file, and the masks of its annotations.

    It keeps of an annotation what COCO knows and the attributes, as texts.
    """
    found = COCO(path)
    content = json.loads(Path(path).read_text())
    first, _, third, fourth, fifth, _ = content["annotations"]  # two are deleted
    moved = np.roll(found.annToMask(first).astype(bool), 5, axis=1)
    assert moved[28:42, 88:97].all()
    moved[30:40, 90:95] = False  # a hole
    first["segmentation"] = tiny_sets.run_lengths(moved)
    corner = [100, 150, WIDTH, 150, WIDTH, HEIGHT, 100, HEIGHT]
    third["segmentation"] = [corner]
    fourth["attributes"]["sentence"] = RUSSIAN
    added = dict(fourth, id=99, image_id=fifth["image_id"], segmentation=[corner])
    added["attributes"] = {"sentence": NEW}
    content["annotations"] = [first, third, fourth, fifth, added]
    for one in content["annotations"]:
        one["attributes"].update(occluded="false", score=str(one.pop("score")))
        del one["sentences"]
    inside = tiny_sets.box(HEIGHT, WIDTH, (150, HEIGHT, 100, WIDTH))
    unchanged = [found.annToMask(one).astype(bool) for one in (fourth, fifth)]
    return content, [moved, inside, *unchanged, inside]


def test_predict_correct_fine_tune(folder, capsys):
    predict, vocabulary, build, train = commands()
    images = ["--image", "photos/a.jpg", "photos/b.jpg", "photos/more/b.jpg"]
    start(predict, *images, "--text", ORANGE, LARGE, "-g", "-1")
    file = "answers/instances_train.json"
    told = f"for label tools: {file}, images below {folder / 'photos'}\n"
    assert told in capsys.readouterr().out

    content, masks = corrected(file)
    names = [one["file_name"] for one in content["images"]]
    assert names == ["a.jpg", "b.jpg", "more/b.jpg"]
    for one in content["images"]:
        assert (one["height"], one["width"]) == (HEIGHT, WIDTH)
    (folder / "corrected").mkdir()
    for split in ("train", "val"):
        path = folder / "corrected" / f"instances_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")

    start(vocabulary)
    old = text_processing.read_words("ckpts/shapes/demo/vocabulary.txt")
    words = text_processing.read_words("data/vocabulary_corrected.txt")
    assert words == [*old, "dotted"]
    shutil.copy("data/vocabulary_corrected.txt", "data/vocabulary_whole.txt")
    (folder / "photos").rename(folder / "elsewhere")
    build = build.replace("--images photos", "--images elsewhere") + " -j 1"
    capsys.readouterr()
    start(build, "--size", str(SIDE))
    assert "EXIF" not in capsys.readouterr().err
    samples = read_all("data/corrected/train_batch", "corrected_train")
    sentences = [ORANGE, ORANGE, RUSSIAN, ORANGE, NEW]
    assert [one["sent_batch"] for one in samples] == [[text] for text in sentences]
    for sample, mask in zip(samples, masks):
        wanted = im_processing.fit_mask(mask, SIDE, SIDE)
        np.testing.assert_array_equal(sample["mask_batch"], wanted)
    whole = build.replace("train", "val").replace("-d corrected", "-d whole")
    start(whole)
    samples = read_all("data/whole/val_batch", "whole_val")
    for sample, mask in zip(samples, masks):
        np.testing.assert_array_equal(sample["mask_batch"], mask)
    names = ["a.jpg", "b.jpg", "b.jpg", "more/b.jpg", "more/b.jpg"]
    assert [one["im_name_batch"] for one in samples] == [[name] for name in names]
    upright = im_processing.read_image("elsewhere/b.jpg")
    np.testing.assert_array_equal(samples[1]["im_batch"], upright)

    options = shlex.split(train)[4:] + "-st 2 -g -1 --threads 1".split()
    out, _ = runs.finish(runs.start(1, options))
    assert f"{len(old)} of {len(words)} words have their vectors from it" in out
    log = runs.read_log("ckpts/corrected/first")
    assert [line["step"] for line in log] == [1, 2]
    again = predict.replace("-d shapes", "-d corrected")
    again = again.replace("ckpts/shapes/demo", "ckpts/corrected/first")
    again = again.replace("photos/", "elsewhere/").replace("answers", "again")
    start(again, "-g", "-1")
    assert "4 of 4 sentences segmented" in capsys.readouterr().out
