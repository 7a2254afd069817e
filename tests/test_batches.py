"""util.batches: samples on disk, and building them."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_sets

from util import batches, im_processing, processes, record, refer
from util.errors import UserError

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = tiny_sets.box(4, 6, (1, 3, 2, 5))
IDS = [0] * 18 + [4, 5]


def write(path, **changes):
    """Write a sample as the reference does, with some arrays changed."""
    arrays = dict(text_batch=IDS, im_batch=PICTURE, mask_batch=MASK, sent_batch=["a b"])
    np.savez(path, **dict(arrays, **changes))
    return path


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "unc_val_0.npz")


@pytest.fixture
def root(tmp_path):
    tiny_sets.write_unc(tmp_path)
    return tmp_path


def build(root, split="train", **options):
    options.setdefault("size", 32)
    return batches.build("unc", split, str(root), **options)


def read_record(folder):
    with open(os.path.join(folder, "build.json")) as file:
        return json.load(file)


def contents(folder):
    """Return file name -> bytes of a folder."""
    files = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            files[name] = file.read()
    return files


def test_sample_round_trip(path):
    batches.write_sample(path, IDS, PICTURE, MASK, "caf\u00e9", "COCO_7")
    sample = batches.read_sample(path)
    assert sorted(sample) == [
        "im_batch",
        "im_name_batch",
        "mask_batch",
        "sent_batch",
        "text_batch",
    ]
    for key, expected in (("im_batch", PICTURE), ("mask_batch", MASK)):
        assert sample[key].dtype == expected.dtype
        np.testing.assert_array_equal(sample[key], expected)
    assert sample["text_batch"].dtype == np.int32
    assert sample["text_batch"].tolist() == IDS
    assert sample["sent_batch"] == ["caf\u00e9"]
    assert sample["im_name_batch"] == ["COCO_7"]


def test_reference_can_read_a_sample(path):
    """Its reader takes all keys of np.load and uses these four."""
    batches.write_sample(path, IDS, PICTURE, MASK, "left", "COCO_7")
    loaded = dict(np.load(path))
    assert loaded["text_batch"].shape == (20,)
    assert loaded["im_batch"].dtype == np.uint8
    assert loaded["mask_batch"].dtype == bool
    assert loaded["sent_batch"][0] == "left"


@pytest.mark.parametrize(
    "sentence, expected",
    [
        (["left one"], "left one"),
        ([b"left one"], "left one"),
        (["caf\u00e9".encode("utf-8")], "caf\u00e9"),
        (["caf\u00e9".encode("latin-1")], "caf\u00e9"),
    ],
)
def test_samples_of_the_reference_are_read(path, sentence, expected):
    write(path, sent_batch=sentence, text_batch=np.array(IDS, np.int64))
    sample = batches.read_sample(path)
    assert sample["sent_batch"] == [expected]
    assert sample["im_name_batch"] == [""]
    assert sample["text_batch"].dtype == np.int32


@pytest.mark.parametrize(
    "changes",
    [
        {"text_batch": IDS[1:]},
        {"text_batch": np.array(IDS, float)},
        {"text_batch": [IDS]},
        {"im_batch": PICTURE.astype(np.float32)},
        {"im_batch": PICTURE.astype(np.uint16)},
        {"im_batch": PICTURE[..., 0]},
        {"im_batch": PICTURE[None]},
        {"im_batch": np.uint8(3)},
        {"mask_batch": MASK.T},
        {"mask_batch": MASK[..., None]},
        {"mask_batch": MASK.astype(float)},
        {"sent_batch": ["a", "b"]},
        {"sent_batch": [7]},
        {"im_name_batch": [7]},
        {"sent_batch": np.array([{"a": 1}], object)},
    ],
)
def test_sample_of_another_form_is_refused_by_name(path, changes):
    batches.read_sample(write(path))
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(write(path, **changes))


def test_sample_without_a_key_is_refused_by_name(path):
    np.savez(path, text_batch=IDS, im_batch=PICTURE, mask_batch=MASK)
    with pytest.raises(UserError, match="unc_val_0.npz.*sent_batch"):
        batches.read_sample(path)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_half_a_sample_is_refused_by_name(path, share):
    write(path)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: int(share * len(content))])
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(path)


def test_changed_bytes_missing_and_pickled_samples_are_refused(path):
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(path)
    write(path)
    with open(path, "r+b") as file:
        file.seek(500)
        file.write(b"\xff" * 40)
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(path)
    with open(path, "wb") as file:
        pickle.dump({"text_batch": IDS}, file)
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(path)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_sample_that_would_run_code_is_refused(path, tmp_path):
    made = tmp_path / "made"
    write(path, sent_batch=np.array([Evil(str(made))], object))
    with pytest.raises(UserError, match="unc_val_0.npz"):
        batches.read_sample(path)
    assert not made.exists()


def test_training_samples_have_the_input_size(root):
    folder = build(root)
    assert folder == str(root / "unc" / "train_batch")
    names = {"unc_train_{}.npz".format(n) for n in range(4)} | {"build.json"}
    assert set(os.listdir(folder)) == names
    samples = [
        batches.read_sample(batches.sample_file(folder, "unc_train", n))
        for n in range(4)
    ]
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
    picture = refer.load(refer.referents("unc", "train", str(root))[:1])[0]
    fitted = im_processing.fit_picture(picture, 32, 32)
    np.testing.assert_array_equal(samples[0]["im_batch"], fitted)


def test_other_samples_keep_the_size_of_their_picture(root):
    folder = build(root, "val", batches=str(root / "elsewhere"))
    assert folder == str(root / "elsewhere" / "unc" / "val_batch")
    sample = batches.read_sample(batches.sample_file(folder, "unc_val", 1))
    assert sample["im_batch"].shape == (60, 40, 3)
    np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[103])


def test_input_size_of_the_data_set_is_the_default(root):
    folder = build(root, size=None)
    sample = batches.read_sample(batches.sample_file(folder, "unc_train", 0))
    assert sample["im_batch"].shape == (320, 320, 3)
    # What data/README.md says a training sample takes.
    size = os.path.getsize(batches.sample_file(folder, "unc_train", 0))
    assert size == pytest.approx(411000, abs=1000)


def test_referit(tmp_path):
    tiny_sets.write_referit(tmp_path)
    folder = batches.build("referit", "test", str(tmp_path))
    sample = batches.read_sample(batches.sample_file(folder, "referit_test", 3))
    assert sample["sent_batch"] == ["box"] and sample["im_name_batch"] == ["21"]
    np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[102])


def test_other_number_of_sentences_than_published_is_told(root, capsys):
    build(root)
    printed = capsys.readouterr()
    assert "unc train: built, 4 samples" in printed.out
    warnings = [line for line in printed.err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "has 4 sentences, not the 120624" in warnings[0]


def test_processes_write_the_same_bytes(root):
    one = contents(build(root, batches=str(root / "one")))
    two = contents(build(root, batches=str(root / "two"), jobs=2))
    assert len(one) == 5 and one == two


class Interrupt:
    """Stands in for write_sample and interrupts the build before sample `last`."""

    def __init__(self, monkeypatch, last, error=KeyboardInterrupt):
        self.write, self.last, self.error, self.paths = (
            batches.write_sample,
            last,
            error,
            [],
        )
        monkeypatch.setattr(batches, "write_sample", self)

    def __call__(self, path, *arguments):
        if len(self.paths) == self.last:
            raise self.error("stopped")
        self.paths.append(os.path.basename(path))
        self.write(path, *arguments)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_interrupted_build_goes_on(root, monkeypatch, capsys, last):
    whole = contents(build(root, batches=str(root / "whole")))
    part = str(root / "part")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Interrupt(patch, last)
        build(root, batches=part)
    folder = os.path.join(part, "unc", "train_batch")
    assert len(os.listdir(folder)) == last + 1  # and build.json
    assert read_record(folder)["complete"] is False
    with pytest.raises(UserError, match="run build_batches.py again"):
        record.check_complete(folder, last)
    with monkeypatch.context() as patch:
        written = Interrupt(patch, None).paths
        build(root, batches=part)
    assert written == ["unc_train_{}.npz".format(n) for n in range(last, 4)]
    assert contents(folder) == whole
    record.check_complete(folder, 4)


def test_lost_half_and_leftover_files_are_made_good(root, capsys):
    folder = build(root)
    whole = contents(folder)
    os.remove(batches.sample_file(folder, "unc_train", 1))
    os.truncate(batches.sample_file(folder, "unc_train", 2), 1000)
    with open(batches.sample_file(folder, "unc_train", 3) + ".77.part", "wb"):
        pass
    with pytest.raises(UserError, match="3 of 4 samples"):
        record.check_complete(folder, 3)
    build(root)
    assert contents(folder) == whole


def test_finished_split_is_recognised(root, monkeypatch, capsys):
    build(root)
    capsys.readouterr()
    # Neither pictures nor writing is needed to see that nothing is left to do.
    os.rename(str(root / "coco"), str(root / "moved"))
    Interrupt(monkeypatch, 0)
    build(root)
    assert "unc train: already complete, 4 samples" in capsys.readouterr().out


def change_refs(root):
    refs = tiny_sets.refs()
    refs[0]["sentences"][0]["sent"] = "right box"
    path = root / "refer" / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol=2))


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
            Interrupt(patch, 2)
            build(root)
    if change:
        change(root)
    before = contents(str(root / "unc" / "train_batch"))
    with pytest.raises(UserError, match="train_batch was built with other " + what):
        build(root, **options)
    assert contents(str(root / "unc" / "train_batch")) == before


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
    record.check_complete(str(folder), 1)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_record_is_refused_by_name(root, content):
    folder = build(root)
    (root / "unc" / "train_batch" / "build.json").write_text(content)
    for check in (lambda: build(root), lambda: record.check_complete(folder, 4)):
        with pytest.raises(UserError, match="build.json is damaged.*delete"):
            check()


def test_record_says_what_the_samples_were_built_from(root):
    found = read_record(build(root))
    assert found["size"] == 32 and found["sentences"] == 4
    assert found["complete"] is True


def test_sentence_without_words_fails_before_any_work(root):
    refs = tiny_sets.refs()
    refs[3]["sentences"][0]["sent"] = " . "
    path = root / "refer" / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol=2))
    with pytest.raises(
        UserError, match="referent 104: the sentence ' . ' has no words"
    ):
        build(root)
    assert not (root / "unc").exists()


def test_missing_picture_fails_before_any_work(root):
    os.remove(refer.referents("unc", "train", str(root))[2].picture)
    with pytest.raises(UserError, match="no file .*000003.jpg"):
        build(root)
    assert not (root / "unc").exists()


def test_split_without_sentences_is_refused(root):
    with pytest.raises(UserError, match="no sentences for testA"):
        build(root, "testA")
    assert not (root / "unc").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_error_in_a_worker_ends_the_build(root, jobs):
    picture = refer.referents("unc", "train", str(root))[2].picture
    os.truncate(picture, 900)
    with pytest.raises(UserError, match="cannot read the picture .*000003.jpg"):
        build(root, jobs=jobs)
    left = os.listdir(str(root / "unc" / "train_batch"))
    assert "unc_train_3.npz" not in left
    assert not [name for name in left if name.endswith(".part")]


def fail_first(path):
    """Raise for the task named 0, and leave a trace of the others."""
    if os.path.basename(path) == "0":
        raise UserError("the first one fails")
    time.sleep(0.02)
    os.mkdir(path)


def test_tasks_after_an_error_are_not_begun(tmp_path):
    tasks = [str(tmp_path / str(number)) for number in range(40)]
    with pytest.raises(UserError, match="the first one fails"):
        list(processes.run(fail_first, tasks, jobs=2))
    assert len(os.listdir(str(tmp_path))) < 20


INTERRUPTED = """
import sys, test_batches
from util import errors, processes
tasks = [sys.argv[1] + "/" + str(number) for number in range(1, 400)]
run = lambda: list(processes.run(test_batches.fail_first, tasks, jobs=2))
sys.exit(errors.exit_code(run))
"""


def test_ctrl_c_ends_the_processes_even_when_pressed_twice(tmp_path):
    paths = os.pathsep.join(sys.path)
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=paths),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not os.listdir(str(tmp_path)) and running.poll() is None:
        time.sleep(0.02)
    for _ in range(2):  # to the whole group, as a terminal does
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.05)
    assert running.communicate(timeout=30)[1] == b"interrupted\n"
    assert running.returncode == 130
    assert len(os.listdir(str(tmp_path))) < 399


def die(*_):
    os._exit(1)


def test_death_of_a_worker_ends_the_build():
    with pytest.raises(UserError, match="worker process died"):
        list(processes.run(die, [1, 2, 3], jobs=2))


def test_unwritable_folder_is_refused_by_name(root):
    (root / "unc").write_text("in the way")
    with pytest.raises(UserError, match="cannot write .*train_batch"):
        build(root)


def test_shapes_are_drawn_where_there_are_none(tmp_path, monkeypatch):
    shapes = pytest.importorskip("util.shapes")
    draw = shapes.draw
    drawn = []

    def draw_few(root):
        drawn.append(root)
        draw(root, num_scenes={"train": 2, "val": 1, "test": 1})

    monkeypatch.setattr(shapes, "draw", draw_few)
    folder = batches.build("shapes", "train", str(tmp_path))
    batches.build("shapes", "val", str(tmp_path))
    assert drawn == [str(tmp_path)]
    sample = batches.read_sample(batches.sample_file(folder, "shapes_train", 0))
    assert sample["im_batch"].shape == (160, 160, 3) and sample["mask_batch"].any()
