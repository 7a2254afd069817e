"""Samples know the files that they were built from."""

import json
import os
import shutil

import pytest
import tiny_sets
from on_disk import contents, read_all
from PIL import Image

import build_batches
from util import check, convert
from util.core.errors import UserError
from util.data import datasets, shapes, sources
from util.data.build import build_samples

OTHER = "was built with other images: .*: delete the folder to build anew"


@pytest.fixture
def root(tmp_path):
    tiny_sets.write_unc(tmp_path / "data")
    return tmp_path / "data"


def build(root, split="train", name="unc", **options):
    options.setdefault("size", 16)
    return build_samples(datasets.get(name, str(root)), split, **options)


def image(root, number=1):
    name = f"COCO_train2014_{number:012d}.jpg"
    return root / "coco" / "images" / "train2014" / name


def replace(path, size=None, colour=0):
    """Write another image over one; return its former bytes."""
    before = path.read_bytes()
    with Image.open(str(path)) as file:
        size = size or file.size
    Image.new("RGB", size, (colour,) * 3).save(str(path))
    return before


def keep_time(path, status):
    os.utime(str(path), ns=(status.st_atime_ns, status.st_mtime_ns))


def record(folder):
    with open(os.path.join(folder, "sources.json")) as file:
        return json.load(file)


@pytest.mark.parametrize("layout", ["npz", "compact"])
def test_an_image_replaced_in_place_is_refused(root, layout):
    folder = build(root, layout=layout)
    before = contents(folder)
    replace(image(root))
    with pytest.raises(UserError, match="train_batch .*/COCO.*1.jpg in .*data"):
        build(root, layout=layout)
    with pytest.raises(UserError, match=OTHER):
        build(root, layout=layout)
    assert contents(folder) == before
    shutil.rmtree(folder)
    build(root, layout=layout)
    assert not read_all(folder)[0]["im_batch"].any()
    # Of an image that shows in another split nothing was read here.
    replace(image(root, 2))
    build(root, layout=layout)


def test_the_same_content_at_another_time_or_place_is_the_same(root, capsys):
    folder = build(root)
    first = record(folder)
    assert first["folder"] == os.path.realpath(str(root))
    name = "coco/images/train2014/COCO_train2014_000000000001.jpg"
    assert first["files"][name][0] == image(root).stat().st_size
    os.utime(str(image(root)), (1, 1))
    build(root)
    assert record(folder)["files"][name][1] == 10**9
    moved = root.parent / "moved"
    root.rename(moved)
    os.utime(str(image(moved)), (2, 2))
    build(moved)
    assert capsys.readouterr().out.count("already complete") == 2
    now = record(str(moved / "unc" / "train_batch"))
    assert now["folder"] == os.path.realpath(str(moved))
    assert now["files"][name] == [
        *first["files"][name][:1],
        2 * 10**9,
        first["files"][name][2],
    ]


def test_content_is_read_only_where_size_time_or_folder_differ(root, monkeypatch):
    folder, read = build(root), []
    look_at = sources._look_at
    monkeypatch.setattr(
        sources, "_look_at", lambda path: read.append(path) or look_at(path)
    )
    build(root)
    assert not read
    os.utime(str(image(root)), (1, 1))
    build(root)
    assert read == [str(image(root))]
    build(root)
    assert len(read) == 1
    # A file of the same size and time in another folder may be another one.
    other = root.parent / "other"
    shutil.copytree(str(root), str(other))
    status = image(root, 3).stat()
    content = bytearray(image(root, 3).read_bytes())
    content[-20] ^= 1
    image(other, 3).write_bytes(bytes(content))
    keep_time(image(other, 3), status)
    keep_time(image(other), image(root).stat())
    with pytest.raises(UserError, match="3.jpg in .*other: delete"):
        build(other)
    assert len(read) == 3 and record(folder)


def test_images_that_are_gone_say_nothing(root, capsys):
    build(root)
    image(root).unlink()
    build(root)
    assert "already complete" in capsys.readouterr().out


def test_builds_without_a_record_go_on_working(root, capsys):
    folder = build(root)
    os.remove(os.path.join(folder, "sources.json"))
    replace(image(root))
    build(root)
    assert "already complete" in capsys.readouterr().out
    os.remove(os.path.join(folder, "unc_train_3.npz"))
    build(root)
    (name,) = record(folder)["files"]  # of what was read since
    assert name.endswith("3.jpg")
    replace(image(root, 3))
    with pytest.raises(UserError, match=OTHER):
        build(root)


@pytest.mark.parametrize("layout", ["npz", "compact"])
def test_a_damaged_image_is_replaced_and_the_build_goes_on(root, layout):
    whole = image(root, 3).read_bytes()
    os.truncate(str(image(root, 3)), 900)
    with pytest.raises(UserError, match="cannot read the image"):
        build(root, layout=layout)
    image(root, 3).write_bytes(whole)
    folder = build(root, layout=layout)
    assert len(read_all(folder)) == 4
    build(root, layout=layout)


def test_an_image_of_which_half_the_samples_are_there_is_read_anew(root):
    folder = build(root)
    os.remove(os.path.join(folder, "unc_train_2.npz"))
    replace(image(root), colour=7)
    build(root)
    shown = [sample["im_batch"].max() for sample in read_all(folder)[:3]]
    assert shown == [7, 7, 7]


def test_masks_of_referit_count_too(tmp_path):
    tiny_sets.write_referit(tmp_path)
    build(tmp_path, "test", "referit")
    mask = tmp_path / "referit" / "mask" / "21_2.mat"
    tiny_sets.write_mat(mask, ~tiny_sets.MASKS[101])
    with pytest.raises(UserError, match="other images: referit/mask/21_2.mat in "):
        build(tmp_path, "test", "referit")


def test_shapes_know_their_images(tmp_path):
    shapes.draw(str(tmp_path), num_scenes={"val": 1})
    build(tmp_path, "val", "shapes")
    (path,) = (tmp_path / "shapes" / "images").iterdir()
    replace(path)
    with pytest.raises(UserError, match=OTHER):
        build(tmp_path, "val", "shapes")


@pytest.mark.parametrize("content", ["{", "[]", '{"folder": "a", "files": {"b": 1}}'])
def test_a_damaged_record_is_refused_by_name(root, content):
    folder = build(root)
    with open(os.path.join(folder, "sources.json"), "w") as file:
        file.write(content)
    with pytest.raises(UserError, match="sources.json is damaged"):
        build(root)


@pytest.fixture
def mine(tmp_path):
    """Return a function that runs build_batches.py on a folder of images."""
    tiny_sets.write_vocabulary(tmp_path / "vocabulary_mine.txt")
    box = [[1, 1, 9, 1, 9, 9, 1, 9]]
    entries = [
        {"image": "a.png", "split": split, "sentences": ["box"], "segmentation": box}
        for split in ("val", "test")
    ]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    for name, colour in (("first", 10), ("second", 20)):
        (tmp_path / name).mkdir()
        image = Image.new("RGB", (30, 20), (colour, 0, 0))
        image.save(str(tmp_path / name / "a.png"))

    def run(images, split="val"):
        command = ["-d", "mine", "-t", split, "--data", str(tmp_path), "-j", "1"]
        more = ["--annotations", str(tmp_path / "mine.json"), "--images"]
        return build_batches.main(command + more + [str(tmp_path / images)])

    return run


@pytest.mark.parametrize("split", ["val", "test"])
def test_another_folder_with_other_images_is_refused(tmp_path, mine, capsys, split):
    assert mine("first") == 0
    capsys.readouterr()
    assert mine("second", split) == 2
    told = capsys.readouterr().err
    assert "val_batch was built with other images: a.png in" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "mine" / "test_batch").exists()
    # The folder that was asked for is the one from now on.
    short = ["-d", "mine", "-t", "val", "--data", str(tmp_path)]
    assert build_batches.main(short) == 2
    shutil.rmtree(str(tmp_path / "mine" / "val_batch"))
    assert build_batches.main(short) == 0
    (sample,) = read_all(str(tmp_path / "mine" / "val_batch"), "mine_val")
    assert sample["im_batch"][0, 0].tolist() == [20, 0, 0]


def test_another_folder_with_the_same_images_takes_the_place(tmp_path, mine, capsys):
    assert mine("first") == 0
    shutil.copy(str(tmp_path / "first" / "a.png"), str(tmp_path / "second" / "a.png"))
    assert mine("second") == 0
    assert "already complete" in capsys.readouterr().out
    assert datasets.get("mine", str(tmp_path)).images.endswith("second")


def test_conversion_keeps_the_record(root):
    dataset = datasets.get("unc", str(root))
    first = record(build(root))
    convert.convert(dataset, "train")
    replace(image(root))
    with pytest.raises(UserError, match=OTHER):
        build(root, layout="compact")
    elsewhere = str(root.parent / "elsewhere")
    folder = convert.convert(dataset, "train", "npz", output=elsewhere)
    assert record(folder) == first
    with pytest.raises(UserError, match=OTHER):
        build_samples(datasets.get("unc", str(root), elsewhere), "train", 16)


def test_check_says_that_images_are_others(root):
    build(root)
    dataset = datasets.get("unc", str(root))
    rows = {row.what: row for row in check.check_all(dataset, ["train"], False)}
    assert rows["images train"].status == "ok"
    replace(image(root))
    rows = {row.what: row for row in check.check_all(dataset, ["train"], False)}
    assert "built with other images" in rows["images train"].detail
