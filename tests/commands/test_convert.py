"""util.convert: from one layout to the other and back, whole or not at all."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import tiny_sets
from on_disk import IMAGE, MASK, check_same, contents, read_all, write

from util import convert
from util.convert import WRITERS
from util.core import files
from util.core.errors import UserError
from util.data import compact, datasets
from util.data.build import build_samples
from util.data.samples import open_samples, sample_file

BACK = {"npz": "compact", "compact": "npz"}
LAYOUTS = pytest.mark.parametrize("layout", sorted(BACK))


@pytest.fixture
def root(tmp_path):
    tiny_sets.write_unc(tmp_path)
    return tmp_path


def build(root, layout, batches=None):
    dataset = datasets.get("unc", str(root), batches)
    return build_samples(dataset, "train", size=32, layout=layout)


def run(root, options):
    """Run the command in `root` and return its exit code."""
    command = f"-d unc -t train --data {root} {options}"
    return convert.main(command.split())


@LAYOUTS
def test_there_and_back(root, capsys, layout):
    """The files are those of a build in the other layout, to the byte."""
    other = contents(build(root, BACK[layout], batches=str(root / "other")))
    folder = build(root, layout)
    before, samples = contents(folder), read_all(folder)
    # Neither images nor annotations are needed.
    for name in ("coco", "refer", "vocabulary_Gref.txt"):
        os.rename(str(root / name), str(root / ("moved " + name)))
    assert run(root, "--to " + BACK[layout]) == 0
    told = f"unc train: 4 samples, now {BACK[layout]}, in {folder}"
    assert told in capsys.readouterr().out
    assert contents(folder) == other
    check_same(samples, read_all(folder))
    assert run(root, "--to " + layout) == 0
    assert contents(folder) == before


@LAYOUTS
def test_builds_go_on_with_what_was_converted(root, capsys, layout):
    folder = build(root, layout)
    run(root, "--to " + BACK[layout])
    build(root, BACK[layout])
    assert "already complete, 4 samples" in capsys.readouterr().out
    with pytest.raises(UserError, match="util.convert"):
        build(root, layout)
    assert len(open_samples(folder, "unc_train")) == 4


@LAYOUTS
def test_nothing_is_done_twice(root, capsys, layout):
    before = contents(build(root, layout))
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.npz")}
    assert run(root, "--to " + layout) == 0
    assert "4 samples, already " + layout in capsys.readouterr().out
    assert contents(str(root / "unc" / "train_batch")) == before
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.npz")} == stamps


def fill_as_the_reference(folder):
    """Write samples without names, as its files are: three images, four masks."""
    folder.mkdir(parents=True)
    flat = np.full_like(IMAGE, 7)
    tall = IMAGE.reshape(6, 4, 3)
    shown = [
        (IMAGE, MASK),
        (flat, MASK),
        (IMAGE, ~MASK),
        (tall, MASK.reshape(6, 4)),
        (IMAGE, MASK),
        (flat, MASK),
    ]
    for n, (image, mask) in enumerate(shown):
        write(
            str(folder / f"unc_train_{n}.npz"),
            im_batch=image,
            mask_batch=np.asfortranarray(mask),
            sent_batch=[f"caf\u00e9 {n}".encode("latin-1")],
            text_batch=np.arange(20) + n,
        )
    return str(folder)


def test_samples_of_the_reference_become_compact(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    folder = fill_as_the_reference(tmp_path / "unc" / "train_batch")  # its place
    samples = read_all(folder)
    assert convert.main("-d unc -t train".split()) == 0
    names = ["unc_train_index.npz"]
    names += [f"unc_train_picture_{n}.npz" for n in range(3)]
    assert sorted(os.listdir(folder)) == names
    check_same(samples, read_all(folder))
    opened = open_samples(folder, "unc_train")
    assert opened.images() == [0, 1, 0, 2, 0, 1]
    with np.load(os.path.join(folder, "unc_train_picture_0.npz")) as arrays:
        assert len(arrays["masks"]) == 2
    assert samples[0]["sent_batch"] == ["caf\u00e9 0"]
    assert samples[0]["im_name_batch"] == [""]
    assert convert.main("-d unc -t train --to npz".split()) == 0
    check_same(samples, read_all(folder))
    assert len(os.listdir(folder)) == 6


def test_images_with_the_same_key_stay_apart(tmp_path, monkeypatch):
    """The key is a name, which may mislead, or a checksum, which may collide."""
    folder = fill_as_the_reference(tmp_path / "unc" / "train_batch")
    samples = read_all(folder)
    monkeypatch.setattr("util.data.samples._image_key", lambda path: "all the same")
    assert run(tmp_path, "") == 0
    check_same(samples, read_all(folder))
    assert len(os.listdir(folder)) == 4


@LAYOUTS
def test_output_keeps_the_old_samples(root, capsys, layout):
    folder = build(root, layout)
    before, samples = contents(folder), read_all(folder)
    assert run(root, "--to {} --output {}".format(BACK[layout], root / "new")) == 0
    assert contents(folder) == before
    new = os.path.join(str(root), "new", "unc", "train_batch")
    assert open_samples(new, "unc_train").layout == BACK[layout]
    check_same(samples, read_all(new))
    capsys.readouterr()
    for output in (root, root / "new"):
        assert run(root, f"--output {output}") == 2
        assert "holds samples already" in capsys.readouterr().err
    assert contents(folder) == before


@LAYOUTS
@pytest.mark.parametrize("output", [None, "new"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "disk full")])
def test_failure_leaves_everything_as_it_was(
    root, monkeypatch, capsys, layout, output, error
):
    folder = build(root, layout)
    before = contents(folder)
    replace, written = os.replace, []

    def fail(source, target):
        written.append(target)
        if len(written) == 2:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    options = "--to " + BACK[layout]
    if output:
        options += f" --output {root / output}"
    capsys.readouterr()
    assert run(root, options) == (130 if error is KeyboardInterrupt else 2)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "interrupted" or told.startswith("error: cannot write")
    assert len(written) == 2
    assert contents(folder) == before
    assert not output or not os.path.exists(str(root / output / "unc" / "train_batch"))


@pytest.mark.parametrize(
    "layout, name", [("npz", "unc_train_2.npz"), ("compact", "unc_train_picture_1.npz")]
)
def test_damaged_samples_are_told_by_name(root, capsys, layout, name):
    folder = build(root, layout)
    path = os.path.join(folder, name)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"\xff" * 9)
    before = contents(folder)
    assert run(root, "--to " + BACK[layout]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: cannot read the") and name in told
    assert contents(folder) == before


@LAYOUTS
def test_what_a_killed_conversion_left_is_made_good(root, layout):
    """Killed early, it left files of the new layout; late, all files of both."""
    folder = build(root, layout)
    before, samples = contents(folder), read_all(folder)
    run(root, "--to {} --output {}".format(BACK[layout], root / "new"))
    new = contents(os.path.join(str(root), "new", "unc", "train_batch"))
    stray = {"npz": "unc_train_picture_9.npz", "compact": "unc_train_9.npz"}[layout]
    for left in ({stray: b"half"}, dict(new, **{"build.json": before["build.json"]})):
        for name, content in dict(before, **left).items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        with open(os.path.join(folder, stray + ".99999999.part"), "wb"):
            pass
        check_same(samples, read_all(folder))
        assert run(root, "--to " + BACK[layout]) == 0
        assert contents(folder) == new
        assert run(root, "--to " + layout) == 0
        assert contents(folder) == before


def test_killed_conversion_into_another_folder_leaves_no_samples(root, monkeypatch):
    build(root, "npz")
    output, write_all, left = root / "new", WRITERS["compact"], []

    def killed(*args):
        write_all(*args)
        left.extend((output / "unc").iterdir())
        shutil.copytree(str(left[0]), str(root / "left"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(WRITERS, "compact", killed)
        assert run(root, f"--output {output}") == 130
    # As if it had been killed, and that long ago.
    name = left[0].name.replace(str(os.getpid()), "99999999")
    shutil.copytree(str(root / "left"), str(output / "unc" / name))
    dataset = datasets.get("unc", str(root), str(output))
    with pytest.raises(UserError, match="there are no samples"):
        dataset.samples("train")
    assert run(root, f"--output {output}") == 0
    assert len(dataset.samples("train")) == 4


def test_conversion_that_comes_second_removes_nothing(root, monkeypatch, capsys):
    """Another one, of the same samples, ends just before this one begins."""
    folder, locked = build(root, "npz"), files.locked
    wanted = []

    @contextlib.contextmanager
    def late(path):
        with monkeypatch.context() as patch:
            patch.setattr(files, "locked", locked)
            assert run(root, "") == 0
            wanted.append(contents(folder))
        with locked(path) as is_left:
            yield is_left

    monkeypatch.setattr(files, "locked", late)
    assert run(root, "") == 0
    assert "already compact" in capsys.readouterr().out
    assert contents(folder) == wanted[0]


def test_unfinished_builds_are_refused(root, capsys):
    folder = build(root, "npz")
    os.remove(sample_file(folder, "unc_train", 3))
    before = contents(folder)
    assert run(root, "") == 2
    assert "run build_batches.py again" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "options, told",
    [
        ("-d unc -t val", "there are no samples in "),
        ("-d unc -t trial", "unc has no split 'trial'; choose from train, val"),
        ("-d coco -t val", "there is no data set 'coco'; choose from unc, unc+"),
        ("-d unc", "arguments are required: -t"),
        ("-d unc -t val --to zip", "argument --to: invalid choice: 'zip'"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(tmp_path, capsys, options, told):
    try:
        code = convert.main(options.split() + ["--data", str(tmp_path)])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert code == 2 and told in printed.err and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_record_of_the_new_layout_differs_in_nothing_else(root):
    folder = build(root, "npz")
    path = os.path.join(folder, "build.json")
    with open(path) as file:
        before = json.load(file)
    run(root, "")
    with open(path) as file:
        assert json.load(file) == dict(before, layout="compact")


def test_masks_that_are_the_same_are_stored_once(tmp_path):
    folder = tmp_path / "unc" / "train_batch"
    fill_as_the_reference(folder)
    run(tmp_path, "")
    index = compact.read_index(str(folder), "unc_train")
    assert index.masks == [0, 0, 1, 0, 0, 0]


def test_split_that_another_process_writes_is_refused(root, capsys):
    folder = build(root, "npz")
    before = contents(folder)
    with files.locked(folder):
        assert run(root, "--to compact") == 2
    assert "another process writes in" in capsys.readouterr().err
    assert contents(folder) == before
