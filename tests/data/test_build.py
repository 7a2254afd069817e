"""Building samples with util.batches, in both layouts."""

import functools
import importlib
import json
import os
import pickle

import numpy as np
import pytest
import tiny_sets
from on_disk import IMAGE, MASK, check_same, contents, read_all, write

from util.core import files
from util.core.errors import UserError
from util.data import annotations, compact, datasets, im_processing, referent, shapes
from util.data.build import build_samples
from util.data.referent import load
from util.data.samples import open_samples, read_sample, sample_file

SPLITS = ("train", "val")
LAYOUTS = pytest.mark.parametrize("layout", ["npz", "compact"])
FILES = {
    "npz": [f"unc_train_{n}.npz" for n in range(4)],
    "compact": [f"unc_train_picture_{n}.npz" for n in range(2)],
}


@pytest.fixture
def root(tmp_path):
    tiny_sets.write_unc(tmp_path)
    return tmp_path


def build(root, split="train", **options):
    options.setdefault("size", 32)
    dataset = datasets.get("unc", str(root), options.pop("batches", None))
    return build_samples(dataset, split, **options)


def referents(root):
    return annotations.referents(datasets.get("unc", str(root)), "train")


def read_record(folder):
    with open(os.path.join(folder, "build.json")) as file:
        return json.load(file)


@LAYOUTS
def test_training_samples_have_the_input_size(root, layout):
    folder = build(root, layout=layout)
    assert folder == str(root / "unc" / "train_batch")
    names = FILES[layout] + ["build.json", "sources.json"]
    names += ["unc_train_index.npz"] if layout == "compact" else []
    assert sorted(os.listdir(folder)) == sorted(names)
    samples = read_all(folder)
    assert [s["sent_batch"][0] for s in samples] == [
        "Left box.",
        "the two boxes",
        "box on the right",
        "the thin line",
    ]
    assert [s["im_name_batch"][0][-1] for s in samples] == ["1", "1", "1", "3"]
    assert [s["text_batch"][-3:].tolist() for s in samples] == [
        [0, 4, 5],
        [6, 3, 3],
        [3, 6, 3],
        [6, 3, 3],
    ]
    for sample, annotation in zip(samples, (101, 101, 102, 104)):
        expected = im_processing.fit_mask(tiny_sets.MASKS[annotation], 32, 32)
        np.testing.assert_array_equal(sample["mask_batch"], expected)
    image = load(referents(root)[:1])[0]
    fitted = im_processing.fit_image(image, 32, 32)
    np.testing.assert_array_equal(samples[0]["im_batch"], fitted)


def test_layouts_give_the_same_samples(root):
    for split, count in (("train", 4), ("val", 2)):
        one, other = (
            build(root, split, batches=str(root / layout), layout=layout)
            for layout in ("npz", "compact")
        )
        prefix = "unc_" + split
        samples = read_all(one, prefix)
        assert len(samples) == count
        check_same(samples, read_all(other, prefix))


@pytest.mark.parametrize("place", ["refer/refcoco", "refcoco"])
@pytest.mark.parametrize(
    "parent", ["coco/images", "images/mscoco/images", "images", "coco"]
)
@pytest.mark.parametrize("is_2017", [False, True])
def test_samples_are_the_same_wherever_the_files_lie(root, place, parent, is_2017):
    expected = {
        s: read_all(build(root, s, batches=str(root / "1")), f"unc_{s}") for s in SPLITS
    }
    there, kept = root / "coco", root / "kept"
    there.rename(kept)
    (root / "refer" / "refcoco").rename(root / "annotations")
    (root / place).parent.mkdir(exist_ok=True)
    (root / "annotations").rename(root / place)
    for path in sorted(kept.glob("images/train2014/*")):
        folder, name = "train2014", path.name
        if is_2017:  # some of them lie in either folder
            folder = "val2017" if name.endswith("1.jpg") else "train2017"
            name = name[-len("000000000001.jpg") :]
        (root / parent / folder).mkdir(parents=True, exist_ok=True)
        path.rename(root / parent / folder / name)
    for split in SPLITS:
        found = read_all(build(root, split, batches=str(root / "2")), f"unc_{split}")
        check_same(found, expected[split])


def write_refs(root, refs):
    path = root / "refer" / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol=2))


@LAYOUTS
def test_samples_are_numbered_in_file_order_whatever_their_image(root, layout):
    first, second, third, last = tiny_sets.refs()
    silent = dict(third, split="train", sentences=[])
    write_refs(root, [first, last, silent, second])
    folder = build(root, layout=layout)
    assert set(FILES[layout]) < set(os.listdir(folder))
    assert len(os.listdir(folder)) == (6 if layout == "npz" else 5)
    samples = read_all(folder)
    assert [s["im_name_batch"][0][-1] for s in samples] == ["1", "1", "3", "1"]
    for sample, annotation in zip(samples, (101, 101, 104, 102)):
        expected = im_processing.fit_mask(tiny_sets.MASKS[annotation], 32, 32)
        np.testing.assert_array_equal(sample["mask_batch"], expected)


@LAYOUTS
def test_each_image_and_mask_is_read_and_resized_once(root, monkeypatch, layout):
    seen = []

    def counted(module, name):
        function = getattr(module, name)

        def count(*arguments):
            seen.append(name)
            return function(*arguments)

        monkeypatch.setattr(module, name, count)

    counted(referent, "read_turned")
    counted(referent, "decode_segmentation")
    counted(im_processing, "fit_image")
    counted(im_processing, "fit_mask")
    build(root, layout=layout)
    counts = {name: seen.count(name) for name in seen}
    assert counts == {
        "read_turned": 2,
        "fit_image": 2,
        "decode_segmentation": 3,
        "fit_mask": 3,
    }


def test_other_samples_keep_the_size_of_their_image(root):
    folder = build(root, "val", batches=str(root / "elsewhere"))
    assert folder == str(root / "elsewhere" / "unc" / "val_batch")
    sample = read_sample(sample_file(folder, "unc_val", 1))
    assert sample["im_batch"].shape == (60, 40, 3)
    np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[103])


def test_input_size_of_the_data_set_is_the_default(root):
    folder = build(root, size=None)
    sample = read_sample(sample_file(folder, "unc_train", 0))
    assert sample["im_batch"].shape == (320, 320, 3)
    # What data/README.md says a training sample takes.
    size = os.path.getsize(sample_file(folder, "unc_train", 0))
    assert size == pytest.approx(411000, abs=1000)


def test_referit(tmp_path):
    tiny_sets.write_referit(tmp_path)
    folder = build_samples(datasets.get("referit", str(tmp_path)), "test")
    sample = read_sample(sample_file(folder, "referit_test", 3))
    assert sample["sent_batch"] == ["box"] and sample["im_name_batch"] == ["21"]
    np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[102])


def test_other_number_of_sentences_than_published_is_told(root, capsys):
    build(root)
    printed = capsys.readouterr()
    assert "unc train: built, 4 samples" in printed.out
    warnings = [line for line in printed.err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "has 4 sentences, not the 120624" in warnings[0]


@LAYOUTS
def test_processes_write_the_same_bytes(root, layout):
    one = contents(build(root, batches=str(root / "one"), layout=layout))
    two = contents(build(root, batches=str(root / "two"), layout=layout, jobs=2))
    assert len(one) == (6 if layout == "npz" else 5) and one == two


class Interrupt:
    """Stands in for what writes files, and interrupts before the one called `last`.

    Attributes:
      written: the names of the files that were written, but for the index.
    """

    def __init__(self, monkeypatch, last):
        self.last, self.written = last, []
        for module, name in (("build", "write_sample"), ("compact", "write_image")):
            module = importlib.import_module(f"util.data.{module}")
            stand_in = functools.partial(self._write, getattr(module, name))
            monkeypatch.setattr(module, name, stand_in)

    def _write(self, write, path, *arguments):
        name = os.path.basename(path)
        if name == self.last:
            raise KeyboardInterrupt("stopped")
        self.written.append(name)
        write(path, *arguments)


@pytest.mark.parametrize(
    "layout, last", [("npz", 0), ("npz", 1), ("npz", 3), ("compact", 0), ("compact", 1)]
)
def test_interrupted_build_goes_on(root, monkeypatch, capsys, layout, last):
    whole = contents(build(root, batches=str(root / "whole"), layout=layout))
    part = str(root / "part")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Interrupt(patch, FILES[layout][last])
        build(root, batches=part, layout=layout)
    folder = os.path.join(part, "unc", "train_batch")
    left = set(os.listdir(folder)) - {"build.json", "sources.json"}
    left -= {"unc_train_index.npz"}
    assert left == set(FILES[layout][:last])
    assert read_record(folder)["complete"] is False
    if layout == "compact" or last:
        told = "has {} of 4 samples, or .*run build_batches.py again".format(
            last if layout == "npz" else 3 * last
        )
        assert datasets.get("unc", str(root), part).sample_dir("train") == folder
        with pytest.raises(UserError, match=told):
            open_samples(folder, "unc_train")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt = Interrupt(patch, None)
        build(root, batches=part, layout=layout)
    first_image_is_done = last == len(FILES[layout]) - 1
    assert interrupt.written == FILES[layout][last if first_image_is_done else 0 :]
    bar = capsys.readouterr().err.split("\r")[1]
    assert ("| 3/4 " in bar) == first_image_is_done
    assert contents(folder) == whole
    assert len(open_samples(folder, "unc_train")) == 4


def test_lost_half_and_leftover_files_are_made_good(root, capsys):
    folder = build(root)
    whole = contents(folder)
    os.remove(sample_file(folder, "unc_train", 1))
    os.truncate(sample_file(folder, "unc_train", 2), 1000)
    with open(sample_file(folder, "unc_train", 3) + ".99999999.part", "wb"):
        pass
    with pytest.raises(UserError, match="3 of 4 samples"):
        open_samples(folder, "unc_train")
    build(root)
    assert contents(folder) == whole


@pytest.mark.parametrize("name", ["unc_train_picture_0.npz", "unc_train_index.npz"])
@pytest.mark.parametrize("size", [None, 900])
def test_lost_and_half_compact_files_are_made_good(root, name, size):
    folder = build(root, layout="compact")
    whole = contents(folder)
    path = os.path.join(folder, name)
    os.remove(path) if size is None else os.truncate(path, size)
    build(root, layout="compact")
    assert contents(folder) == whole


def test_images_of_another_index_are_built_anew(root, monkeypatch):
    folder = build(root, layout="compact")
    whole = contents(folder)
    index = compact.read_index(folder, "unc_train")
    index.masks[2] = 0
    compact.write_index(folder, "unc_train", index)
    path = compact.image_file(folder, "unc_train", 0)
    compact.write_image(path, IMAGE, [MASK])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Interrupt(patch, FILES["compact"][0])
        build(root, layout="compact")
    build(root, layout="compact")
    assert contents(folder) == whole


@LAYOUTS
def test_finished_split_is_recognised(root, monkeypatch, capsys, layout):
    build(root, layout=layout)
    capsys.readouterr()
    # Neither images nor writing is needed to see that nothing is left to do.
    os.rename(str(root / "coco"), str(root / "moved"))
    written = Interrupt(monkeypatch, None).written
    build(root, layout=layout)
    assert "unc train: already complete, 4 samples" in capsys.readouterr().out
    assert not written


def change_refs(root):
    refs = tiny_sets.refs()
    refs[0]["sentences"][0]["sent"] = "right box"
    write_refs(root, refs)


def change_words(root):
    (root / "vocabulary_Gref.txt").write_text("<pad>\n<unk>\nbox\n")


@pytest.mark.parametrize(
    "change, options, what",
    [
        (None, {"size": 64}, "size"),
        (change_refs, {}, "annotations"),
        (change_words, {}, "vocabulary"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_folder_built_otherwise_is_refused(
    root, monkeypatch, change, options, what, complete
):
    if complete:
        build(root)
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            Interrupt(patch, FILES["npz"][2])
            build(root)
    if change:
        change(root)
    before = contents(str(root / "unc" / "train_batch"))
    with pytest.raises(UserError, match="train_batch was built with other " + what):
        build(root, **options)
    assert contents(str(root / "unc" / "train_batch")) == before


def test_folder_of_the_other_layout_is_refused(root):
    for layout, other, told in (
        ("npz", "compact", "without --compact"),
        ("compact", "npz", "with --compact"),
    ):
        folder = build(root, batches=str(root / layout), layout=layout)
        before = contents(folder)
        with pytest.raises(UserError, match=told + ".*python -m util.convert"):
            build(root, batches=str(root / layout), layout=other)
        assert contents(folder) == before


def test_records_of_old_have_no_layout(root, capsys):
    folder = build(root)
    found = read_record(folder)
    assert found.pop("layout") == "npz"
    (root / "unc" / "train_batch" / "build.json").write_text(json.dumps(found))
    assert len(open_samples(folder, "unc_train")) == 4
    build(root)
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="without --compact"):
        build(root, layout="compact")


def test_size_is_nothing_to_other_splits(root):
    build(root, "val", size=32)
    build(root, "val", size=64)


def test_folder_of_the_reference_is_left_alone(root):
    folder = root / "unc" / "train_batch"
    folder.mkdir(parents=True)
    write(str(folder / "unc_train_0.npz"))
    with pytest.raises(UserError, match="samples of the reference.*move"):
        build(root)
    assert os.listdir(str(folder)) == ["unc_train_0.npz"]
    assert len(open_samples(str(folder), "unc_train")) == 1
    os.rename(str(folder / "unc_train_0.npz"), str(folder / "unc_train_index.npz"))
    with pytest.raises(UserError, match="samples of the reference.*move"):
        build(root, layout="compact")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_record_is_refused_by_name(root, content):
    folder = build(root)
    (root / "unc" / "train_batch" / "build.json").write_text(content)
    for check in (
        lambda: build(root),
        lambda: open_samples(folder, "unc_train"),
    ):
        with pytest.raises(UserError, match="build.json is damaged.*delete"):
            check()


def test_record_says_what_the_samples_were_built_from(root):
    found = read_record(build(root))
    assert found["size"] == 32 and found["sentences"] == 4
    assert found["complete"] is True


def test_sentence_without_words_fails_before_any_work(root):
    refs = tiny_sets.refs()
    refs[3]["sentences"][0]["sent"] = " . "
    write_refs(root, refs)
    with pytest.raises(
        UserError, match="referent 104: the sentence ' . ' has no words"
    ):
        build(root)
    assert not (root / "unc").exists()


def test_missing_image_fails_before_any_work(root):
    os.remove(referents(root)[2].image)
    with pytest.raises(UserError, match="no file .*000003.jpg"):
        build(root)
    assert not (root / "unc").exists()


def test_split_without_sentences_is_refused(root):
    with pytest.raises(UserError, match="no sentences for testA"):
        build(root, "testA")
    assert not (root / "unc").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_error_in_a_worker_ends_the_build(root, jobs):
    image = referents(root)[2].image
    os.truncate(image, 900)
    with pytest.raises(UserError, match="cannot read the image .*000003.jpg"):
        build(root, jobs=jobs)
    left = os.listdir(str(root / "unc" / "train_batch"))
    assert "unc_train_3.npz" not in left
    assert not [name for name in left if name.endswith(".part")]


def test_two_builds_of_a_split_at_once_are_refused(root):
    with files.locked(str(root / "unc" / "train_batch")):
        told = rf"unc/train_batch \(pid {os.getpid()} on "
        with pytest.raises(UserError, match="another process writes in .*" + told):
            build(root)
        build(root, "val")
    build(root)


def test_unwritable_folder_is_refused_by_name(root):
    (root / "unc").write_text("in the way")
    with pytest.raises(UserError, match="cannot write .*train_batch"):
        build(root)


def test_shapes_are_drawn_where_there_are_none(tmp_path, monkeypatch):
    draw = shapes.draw
    drawn = []

    def draw_few(root):
        drawn.append(root)
        draw(root, num_scenes={"train": 2, "val": 1, "test": 1})

    monkeypatch.setattr(shapes, "draw", draw_few)
    dataset = datasets.get("shapes", str(tmp_path))
    folder = build_samples(dataset, "train")
    build_samples(dataset, "val")
    assert drawn == [str(tmp_path)]
    sample = read_sample(sample_file(folder, "shapes_train", 0))
    assert sample["im_batch"].shape == (160, 160, 3) and sample["mask_batch"].any()
