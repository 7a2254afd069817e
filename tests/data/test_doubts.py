"""What may be wrong with annotations is counted and named, or refused."""

import json
import os

import numpy as np
import pytest
import tiny_sets
from on_disk import read_all
from PIL import Image

import build_batches
from util.data import build, build_info, doubts
from util.data.referent import Referent, load

BOX = [[10, 5, 30, 5, 30, 20, 10, 20]]
TINY = [[10.1, 5.1, 10.3, 5.1, 10.3, 5.3, 10.1, 5.3]]
OUTSIDE = [[110, 55, 130, 55, 130, 70, 110, 70]]
SWAPPED = [[5, 10, 20, 10, 20, 55, 5, 55]]  # y lies 15 pixels below the image
FULL = [[0, 0, 60, 0, 60, 40, 0, 40]]
NOTHING = tiny_sets.run_lengths(np.zeros((40, 60), bool))
ALL = tiny_sets.compressed(np.ones((40, 60), bool))


@pytest.fixture
def mine(tmp_path):
    """Return a function that builds objects from their segmentations."""
    tiny_sets.write_vocabulary(tmp_path / "vocabulary_mine.txt")
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(str(tmp_path / "images" / name))

    def run(segmentations, *more, split="val"):
        entries = [
            {
                "image": "ab"[n % 2] + ".png",
                "split": split,
                "sentences": ["box"],
                "mask" if isinstance(one, str) else "segmentation": one,
            }
            for n, one in enumerate(segmentations)
        ]
        (tmp_path / "mine.json").write_text(json.dumps(entries))
        command = ["-d", "mine", "-t", split, "--data", str(tmp_path), "-j", "1"]
        command += ["--annotations", str(tmp_path / "mine.json")]
        command += ["--images", str(tmp_path / "images"), *more]
        return build_batches.main(command)

    run.folder = tmp_path
    return run


def warnings(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize("more", [(), ("--compact",)])
def test_objects_without_a_pixel_are_counted_and_named(mine, capsys, more):
    assert mine([BOX, TINY, OUTSIDE, BOX, NOTHING], *more) == 0
    line = "warning: mine_val: 3 of 5 objects have no pixel: entry 2, entry 4, entry 1"
    assert warnings(capsys) == [line]
    samples = read_all(str(mine.folder / "mine" / "val_batch"), "mine_val")
    pixels = [int(sample["mask_batch"].sum()) for sample in samples]
    assert pixels == [300, 0, 0, 300, 0]


@pytest.mark.parametrize("more", [(), ("--compact",)])
@pytest.mark.parametrize("one", [TINY, OUTSIDE, NOTHING])
def test_where_no_object_has_a_pixel_the_build_is_refused(mine, capsys, one, more):
    assert mine([one, one], *more) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: mine_val: none of the 2 objects has a pixel")
    assert told.endswith(": entry 0, entry 1")
    assert not (mine.folder / "mine" / "val_batch").exists()
    assert mine([BOX, one], *more) == 0


def test_full_masks_are_counted_and_named(mine, capsys):
    white = Image.new("L", (60, 40), 255)
    white.save(str(mine.folder / "white.png"))
    assert mine([FULL, ALL, BOX, "white.png"]) == 0
    (line,) = warnings(capsys)
    assert line.endswith("3 of 4 objects fill their image: entry 0, entry 1, entry 3")
    for mask in ("white.png", "black.png"):
        Image.new("L", (60, 40), 0).save(str(mine.folder / "black.png"))
        image = str(mine.folder / "images" / "a.png")
        one = Referent("x: 1", image, [], mask_image=str(mine.folder / mask))
        kind = {"white.png": "full", "black.png": "no pixel"}[mask]
        assert load([one]).found == [(kind, "1")]


def test_polygons_far_outside_are_counted_and_named(mine, capsys):
    near = [[10, 5, 65, 5, 65, 20, -5, 45]]  # annotators draw a little over the edge
    assert mine([BOX, SWAPPED, near, [*BOX, *OUTSIDE]]) == 0
    (line,) = warnings(capsys)
    assert line.endswith(
        "2 of 4 objects have a polygon more than 5 pixels outside their image: "
        "entry 1, entry 3"
    )


def test_objects_that_training_samples_lose_are_told(mine, capsys):
    image = Image.new("RGB", (600, 400))
    image.save(str(mine.folder / "images" / "a.png"))
    small = np.zeros((400, 600), bool)
    small[1, 1] = True
    assert mine([tiny_sets.run_lengths(small), BOX], "--size", "8", split="train") == 0
    (line,) = warnings(capsys)
    assert "1 of 2 objects have no pixel at the size of the samples: entry 0" in line


def test_ten_are_named(mine, capsys):
    assert mine([BOX] + [TINY] * 12) == 0
    (line,) = warnings(capsys)
    assert "12 of 13 objects have no pixel: entry 2" in line
    assert line.count("entry") == 10 and line.endswith(" and 2 more")


def in_this_process(work, tasks, *_):
    yield from map(work, tasks)


def test_doubts_outlive_an_interruption(mine, capsys, monkeypatch):
    def write(path, *arguments):
        if path.endswith("_3.npz"):
            raise KeyboardInterrupt
        return write_sample(path, *arguments)

    write_sample = build.write_sample
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(build, "write_sample", write)
        patch.setattr(build.parallel, "run", in_this_process)
        raise SystemExit(mine([TINY, BOX, BOX, TINY]))
    folder = str(mine.folder / "mine" / "val_batch")
    assert build_info.read(folder)["doubts"] == {"no pixel": ["entry 0"]}
    capsys.readouterr()
    for _ in range(2):
        assert mine([TINY, BOX, BOX, TINY]) == 0
        assert "2 of 4 objects have no pixel: entry 0, entry 3" in warnings(capsys)[0]
    # What is built again is counted once.
    os.remove(os.path.join(folder, "mine_val_0.npz"))
    assert mine([TINY, BOX, BOX, TINY]) == 0
    assert "2 of 4 objects have no pixel: entry 3, entry 0" in warnings(capsys)[0]


def test_nothing_is_said_of_good_annotations(mine, capsys):
    assert mine([BOX, BOX]) == 0
    assert not warnings(capsys)
    assert list(doubts.sentences({}, 2, 2)) == []


def test_a_damaged_record_of_doubts(mine, capsys):
    assert mine([BOX]) == 0
    path = mine.folder / "mine" / "val_batch" / "build.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), doubts=[1])))
    assert mine([BOX]) == 2
    assert "build.json is damaged" in capsys.readouterr().err
