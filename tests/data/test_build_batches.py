"""build_batches.py: the command line."""

import os
import subprocess
import sys

import pytest
import tiny_sets

import build_batches
from util.core.surroundings import cores

TOP = os.path.dirname(os.path.abspath(build_batches.__file__))


def run(tmp_path, command):
    return build_batches.main(command.split() + ["--data", str(tmp_path)])


@pytest.mark.parametrize(
    "command",
    ["-d unc -t train", "-d unc+ -t testB", "-d Gref -t val", "-d referit -t trainval"],
)
def test_commands_of_the_reference_parse(command):
    args = build_batches.build_parser().parse_args(command.split())
    assert [args.dataset, args.split] == command.split()[1::2]
    assert (args.data, args.batches, args.size) == ("data", None, None)
    assert args.jobs == cores() and not args.compact


def test_builds_with_all_options(tmp_path):
    tiny_sets.write_unc(tmp_path)
    batches = str(tmp_path / "b")
    command = "-d unc -t train --size 16 -j 1 --batches " + batches
    assert run(tmp_path, command) == 0
    assert len(os.listdir(os.path.join(batches, "unc", "train_batch"))) == 6


def test_builds_the_compact_layout(tmp_path, capsys):
    tiny_sets.write_unc(tmp_path)
    command = "-d unc -t train --size 16 -j 1"
    assert run(tmp_path, command + " --compact") == 0
    names = ["build.json", "sources.json", "unc_train_index.npz"]
    names += [f"unc_train_picture_{n}.npz" for n in range(2)]
    assert sorted(os.listdir(str(tmp_path / "unc" / "train_batch"))) == names
    capsys.readouterr()
    assert run(tmp_path, command) == 2
    told = capsys.readouterr().err
    assert "was built with --compact" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "command, told",
    [
        ("-d Gref -t testA", "Gref has no split 'testA'; choose from train, val"),
        (
            "-d coco -t train",
            "no data set 'coco'; choose from unc, unc+, Gref, Gref-umd",
        ),
        (
            "-d unc -t train --images x",
            "--annotations FILE and --images DIR go together",
        ),
        ("-d unc -t train --annotations x --images y", "-d unc is built in: choose"),
        (
            "-d a/b -t train --annotations x --images y",
            "'a/b' is not a name for a data",
        ),
        (
            "-d a -t train --annotations x --images none",
            "none: there is no such folder",
        ),
        ("-d unc -t train", "no file "),
        ("-d unc -t train --size 100", "--size 100: must be a multiple of 8"),
        ("-d unc -t train --size -8", "--size -8"),
        ("-d unc -t train -j 0", "--jobs 0"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(tmp_path, capsys, command, told):
    assert run(tmp_path, command) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.count("\n") == 1
    assert printed.out == "" and os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("command", ["-d unc", "-t train", "-d unc -t train --size x"])
def test_unknown_values_exit_with_2(tmp_path, capsys, command):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, command)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code] + list(arguments),
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=True,
    ).stdout.decode()


def test_nothing_here_loads_tensorflow(tmp_path):
    tiny_sets.write_unc(tmp_path)
    code = (
        "import sys, build_batches; from util.data import data_reader;"
        "build_batches.main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    )
    printed = python(code, "-d", "unc", "-t", "val", "-j1", "--data", str(tmp_path))
    assert "unc val: built, 2 samples" in printed
    assert printed.splitlines()[-1] == "False"


def test_help_answers_before_the_libraries_load():
    code = (
        "import sys, build_batches; build_batches.build_parser().format_help();"
        "print(bool({'skimage', 'numpy', 'pycocotools'} & set(sys.modules)))"
    )
    assert python(code) == "False\n"


def test_unknown_data_set_is_told_before_the_libraries_load(tmp_path):
    code = (
        "import sys, build_batches; code = build_batches.main(sys.argv[1:]);"
        "print(code, bool({'skimage', 'numpy', 'pycocotools'} & set(sys.modules)))"
    )
    printed = python(code, "-d", "coco", "-t", "val", "--data", str(tmp_path))
    assert printed == "2 False\n"


def test_two_processes_from_the_command_line(tmp_path):
    tiny_sets.write_unc(tmp_path)
    command = [
        sys.executable,
        "build_batches.py",
        "-d",
        "unc",
        "-t",
        "train",
        "--size",
        "16",
        "-j",
        "2",
        "--data",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=TOP, check=True, stderr=subprocess.PIPE)
    assert len(os.listdir(str(tmp_path / "unc" / "train_batch"))) == 6
    images = tmp_path / "coco" / "images" / "train2014"
    os.truncate(str(images / "COCO_train2014_000000000003.jpg"), 900)
    command[-1:] = [str(tmp_path), "--batches", str(tmp_path / "b")]
    failed = subprocess.run(command, cwd=TOP, stderr=subprocess.PIPE)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith(b"error: cannot read the image")
    assert b"Traceback" not in failed.stderr
