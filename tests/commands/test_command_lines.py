"""The command lines: help, and every mistake a user can make."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_sets

import build_batches
import trainval_model
from CMPC_model import LSTM_model
from util import (
    benchmark,
    check,
    compare_models,
    convert,
    convert_backbone,
    glove,
    plot_log,
    vocabulary,
)
from util.data import build_info
from util.data.samples import sample_file, write_sample
from util.graph.compat import tf

TOP = Path(__file__).resolve().parents[2]
COMMANDS = {
    "build_batches.py": build_batches.build_parser,
    "trainval_model.py": trainval_model.build_parser,
    "-m util.benchmark": benchmark.build_parser,
    "-m util.check": check.build_parser,
    "-m util.compare_models": compare_models.build_parser,
    "-m util.convert": convert.build_parser,
    "-m util.convert_backbone": convert_backbone.build_parser,
    "-m util.glove": glove.build_parser,
    "-m util.plot_log": plot_log.build_parser,
    "-m util.vocabulary": vocabulary.build_parser,
}


# --- Help


@pytest.mark.parametrize("name", ["build_batches", "trainval_model"])
def test_help_answers_without_tensorflow(name):
    code = (
        f"import sys, {name}\n"
        "try:\n"
        f"    {name}.main(['-h'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'numpy' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(TOP),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert found.returncode == 0 and found.stderr == "", found.stderr
    assert found.stdout.startswith("usage:") and "examples:" in found.stdout


def test_mistakes_are_told_without_tensorflow():
    code = (
        "import sys, trainval_model\n"
        "try:\n"
        "    trainval_model.main('-m test -d unc -t tset -f x'.split())\n"
        "finally:\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=str(TOP), stderr=subprocess.PIPE
    )
    assert found.returncode == 2 and found.stderr.count(b"\n") == 1


def test_tensorflow_adds_no_warning_to_the_line(tmp_path):
    script = str(TOP / "trainval_model.py")
    found = subprocess.run(
        [sys.executable, script] + "-m test -d unc -t val -f none -g -1".split(),
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert found.returncode == 2 and found.stdout == ""
    # What TensorFlow 2 logs from C++ while it loads, nothing turns off.
    lines = [
        line
        for line in found.stderr.splitlines()
        if not re.match(r"I0000 |WARNING: All log messages before absl", line)
    ]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith(
        "error: there is no snapshot none/unc_iter_N.tfmodel; train first"
    )


# --- What the help shows


def commands_in(text):
    """Return the project's commands in a text, as (key of COMMANDS, options)."""
    found = []
    for line in text.splitlines():
        for part in line.split("&&"):
            match = re.match(r"\s*python (-m util\.\w+|\w+\.py)(.*)", part)
            if match and match.group(1) in COMMANDS:
                found.append(match.groups())
    return found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_of_the_help_parse(command):
    parser = COMMANDS[command]()
    examples = commands_in(parser.epilog % {"prog": command})
    assert len(examples) == parser.epilog.count("python ") > 0
    for shown, options in examples:
        assert shown == command
        parser.parse_args(shlex.split(options))


def test_options_have_the_defaults_of_the_reference():
    args = trainval_model.parse("-m train -t trainval -f x".split())
    assert (args.dataset, args.model, args.gpus) == ("referit", None, None)
    assert (args.iteration, args.snapshot, args.stop) == (800000, 100000, 700000)
    assert (args.learning_rate, args.batch_size) == (0.00025, 1)
    assert not (args.embedding or args.conv5 or args.dense_crf or args.visualize)
    assert (args.weight_decay, args.decay_steps) == (0.0005, 800000)
    assert args.backbone == "file"
    assert (args.keep_prob_rnn, args.keep_prob_emb) == (1, 1)
    assert args.cache_features is None and args.cache_size is None
    assert args.cache_dtype == "float32"


@pytest.mark.parametrize(
    "options",
    [
        "-m test -d unc -t val -n CMPC_model -i 700000 -c -emb -f x -g 1",
        "-m report -d unc -t val -n CMPC_model -emb -f x -g 1 --batches b",
        "-m predict -n CMPC_model -emb -g -1 -c -f x --output y --queries q.csv",
        "-m export -n CMPC_model -emb -g -1 -f x --output y",
        "-m serve -n CMPC_model -emb -g -1 -f x",
        "-m demo -n CMPC_model -g -1 --data d --batches b -f x",
    ],
)
def test_options_of_published_commands_are_accepted_by_other_modes(options):
    trainval_model.parse(options.split())


def test_outside_training_the_newest_snapshot_is_used():
    assert trainval_model.parse("-m test -d unc -t val -f x".split()).iteration is None
    assert trainval_model.parse("-m serve -f x -i best".split()).iteration == "best"


# --- Wrong values


@pytest.mark.parametrize(
    "options, told",
    [
        (
            "-m test -d unc -t tset -f x",
            "unc has no split 'tset'; choose from train, val",
        ),
        ("-m test -d Gref -t testA -f x", "Gref has no split 'testA'"),
        ("-m test -d unc -t val", "-m test needs -t SPLIT and -f DIR"),
        ("-m train -d unc -f x", "-m train needs -t SPLIT and -f DIR"),
        ("-d unc -t val -f x", "-m"),
        ("-m tset -d unc -t val -f x", "argument -m: invalid choice: 'tset'"),
        ("-m predict -d unc -f x", "-m predict needs -f DIR and --output DIR"),
        ("-m predict -f x --output y", "needs --image and --text, or --queries"),
        ("-m predict -f x --output y --image a", "--image and --text go together"),
        ("-m predict -f x --output y --text a --queries b.csv", "or --queries"),
        ("-m test -d coco -t val -f x", "there is no data set 'coco'; choose from unc"),
        ("-m test -d unc -t val -f x -n RMI_model", "argument -n: invalid choice"),
        ("-m test -d unc -t val -f x -i 0", "argument -i: '0' is not a whole number"),
        (
            "-m test -d unc -t val -f x -i last",
            "argument -i: 'last' is not a whole number",
        ),
        ("-m train -d unc -t train -f x -i best", "-i best is for -m test"),
        (
            "-m train -d unc -t train -f x --init-vocabulary v.txt",
            "--init-vocabulary says what the snapshot of --init-from knows",
        ),
        (
            "-m train -d Gref -t train -f x --eval-steps 9 --eval-set testA",
            "Gref has no split 'testA'; choose another --eval-set from train, val",
        ),
        (
            "-m train -d unc -t train -f x --weight-decay 2",
            "argument --weight-decay: '2' is not a number from 0 to 1",
        ),
        (
            "-m train -d unc -t train -f x --decay-steps 0",
            "argument --decay-steps: '0' is not a whole number",
        ),
        (
            "-m train -d unc -t train -f x -lr 0",
            "argument -lr: '0' is not a number above",
        ),
        ("-m train -d unc -t train -f x -lr -1", "argument -lr"),
        (
            "-m train -d unc -t train -f x -lr nan",
            "argument -lr: 'nan' is not a number",
        ),
        (
            "-m train -d unc -t train -f x -lr inf",
            "argument -lr: 'inf' is not a number",
        ),
        (
            "-m train -d unc -t train -f x -bs 0",
            "argument -bs: '0' is not a whole number",
        ),
        ("-m train -d unc -t train -f x -bs 1.5", "argument -bs: '1.5' is not a whole"),
        (
            "-m train -d unc -t train -f x -st 0",
            "argument -st: '0' is not a whole number",
        ),
        (
            "-m train -d unc -t train -f x -s 0",
            "argument -s: '0' is not a whole number",
        ),
        (
            "-m train -d unc -t train -f x --seed -1",
            "argument --seed: '-1' is not a whole",
        ),
        (
            "-m train -d unc -t train -f x -g gpu",
            "argument -g: 'gpu' is not a list of GPUs",
        ),
        (
            "-m train -d unc -t train -f x -g 0,",
            "argument -g: '0,' is not a list of GPUs",
        ),
        (
            "-m train -d unc -t train -f x --keep-prob-rnn 0",
            "--keep-prob-rnn: '0' is no",
        ),
        (
            "-m train -d unc -t train -f x --keep-prob-emb 2",
            "--keep-prob-emb: '2' is no",
        ),
        (
            "-m test -d unc -t val -f x --crf-jobs 0",
            "--crf-jobs: '0' is not a whole number",
        ),
        ("-m test -d unc -t val -f x --precision half", "--precision: invalid choice"),
        ("-m train -d unc -t train -f x --backbone vgg", "--backbone: invalid choice"),
        (
            "-m train -d unc -t train -f x -conv5 --cache-features y",
            "--cache-features cannot be combined with -conv5",
        ),
        (
            "-m train -d unc -t train -f x --cache-size 0",
            "--cache-size: '0' is not a number above 0",
        ),
        (
            "-m train -d unc -t train -f x --cache-dtype bfloat16",
            "--cache-dtype: invalid choice",
        ),
        ("-m train -d unc -t train -f x --fast", "unrecognized arguments: --fast"),
        (
            "-m test -d unc -t val -f x --weight-decay 0.0005",
            "--weight-decay is not used by -m test, only by -m train",
        ),
        ("-m test -d unc -t val -f x --resume", "--resume is not used by -m test"),
        ("-m test -d unc -t val -f x --compare a b", "only by -m report"),
        ("-m test -d unc -t val -f x --text a", "--text is not used by -m test"),
        ("-m train -d unc -t train -f x -c", "only by -m test, -m predict"),
        ("-m train -d unc -t train -f x --output y", "--output is not used by"),
        ("-m report -d unc -t val -f x --report", "--report is not used by -m report"),
        ("-m predict -f x --output y --queries q -t val", "-t is not used by -m pred"),
        ("-m predict -f x --output y --queries q --port 80", "only by -m serve"),
        ("-m serve -f x -lr 0.1", "-lr is not used by -m serve"),
        ("-m export -f x --output y --precision tf32", "--precision is not used by"),
        ("-m demo -d unc", "-d is not used by -m demo"),
        ("-m demo -i 100", "-i is not used by -m demo"),
    ],
)
def test_wrong_value_gets_one_line_and_exit_code_2(capsys, options, told):
    with pytest.raises(SystemExit) as caught:
        trainval_model.main(shlex.split(options))
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.err.startswith("error: ") and told in printed.err
    assert printed.err.count("\n") == 1 and printed.out == ""


@pytest.mark.parametrize(
    "options, visible",
    [([], "7,5"), (["-g", "1"], "5"), (["-g", "1,0"], "5,7"), (["-g", "-1"], "-1")],
)
def test_gpus_are_those_asked_for_among_those_given(
    tmp_path, monkeypatch, options, visible
):
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5")
    test = ["-m", "test", "-d", "unc", "-t", "val", "-f", "x"]
    assert trainval_model.main(test + options) == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_gpu_that_was_not_given_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    test = ["-m", "test", "-d", "unc", "-t", "val", "-f", "x", "-g", "1"]
    assert trainval_model.main(test) == 2
    assert "-g 1: CUDA_VISIBLE_DEVICES=3 leaves this process 1 GPUs" in (
        capsys.readouterr().err
    )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


# --- Missing and bad files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with all that training and testing on `unc` need.

    The snapshot and the backbone's weights have just one small variable.
    """
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    data = tmp_path / "data"
    tiny_sets.write_unc(data)
    for split, size in (("train", (16, 16)), ("val", (20, 30))):
        for n in range(3):
            write_sample(
                sample_file(str(data / "unc" / (split + "_batch")), "unc_" + split, n),
                [0] * 19 + [4],
                np.zeros(size + (3,), np.uint8),
                np.ones(size, bool),
                "left",
                "",
            )
    np.save(str(data / "Gref_emb.npy"), np.zeros((7, 5)))
    (tmp_path / "ckpts").mkdir()
    (data / "weights").mkdir()
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("conv2/weights", [1])
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        for path in (
            "data/weights/deeplab_resnet_init.ckpt",
            "ckpts/unc_iter_20.tfmodel",
        ):
            saver.save(session, path, write_meta_graph=False, write_state=False)
    return tmp_path


def tree(folder):
    """Return what is in a folder: path -> size."""
    return {str(p): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def refused(folder, capsys, options):
    """Run a command that must fail and leave no trace, and return what it tells."""
    before = tree(folder)
    assert trainval_model.main(shlex.split(options)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert printed.out == "" and "Traceback" not in printed.err
    assert tree(folder) == before and not (folder / "new").exists()
    return printed.err


TRAIN = "-m train -d unc -t train -f new "
TEST = "-m test -d unc -t val -f ckpts "


def test_snapshot_that_is_not_there(folder, capsys):
    told = refused(folder, capsys, TEST + "-i 30")
    assert "there is no snapshot ckpts/unc_iter_30.tfmodel" in told and "-i: 20" in told
    told = refused(folder, capsys, TEST.replace("ckpts", "none") + "-i 30")
    assert "none/unc_iter_30.tfmodel" in told and "train first" in told
    told = refused(folder, capsys, TEST.replace("ckpts", "none"))
    assert "none/unc_iter_N.tfmodel" in told and "train first" in told


def test_snapshot_of_another_network(folder, capsys):
    told = refused(folder, capsys, TEST + "-i 20")
    assert "ckpts/unc_iter_20.tfmodel is not a checkpoint of CMPC_model" in told


def test_damaged_snapshot(folder, capsys):
    (folder / "ckpts" / "unc_iter_20.tfmodel.index").write_bytes(b"no index")
    told = refused(folder, capsys, TEST + "-i 20")
    assert "cannot read the checkpoint ckpts/unc_iter_20.tfmodel" in told


@pytest.mark.parametrize("options", [TRAIN, TEST + "-i 20"])
def test_samples_that_are_not_built(folder, capsys, options):
    shutil.rmtree("data/unc")
    told = refused(folder, capsys, options)
    split = "train" if "train" in options else "val"
    assert "build them: python build_batches.py -d unc -t " + split in told
    told = refused(folder, capsys, options + " --data d --batches b")
    assert told.rstrip().endswith(f"-t {split} --data d --batches b")


@pytest.mark.parametrize("options", [TRAIN, TEST + "-i 20"])
def test_build_that_was_interrupted(folder, capsys, options):
    split = "train" if "train" in options else "val"
    content = {"complete": False, "sentences": 9}
    path = folder / "data" / "unc" / (split + "_batch") / build_info.FILE
    path.write_text(json.dumps(content))
    told = refused(folder, capsys, options)
    assert "has 3 of 9 samples" in told and "build_batches.py again" in told


def test_sample_that_is_lost(folder, capsys):
    (folder / "data" / "unc" / "val_batch" / "unc_val_1.npz").unlink()
    told = refused(folder, capsys, TEST + "-i 20")
    assert "data/unc/val_batch/unc_val_1.npz is missing" in told


def test_damaged_sample(folder, capsys):
    os.truncate("data/unc/train_batch/unc_train_0.npz", 100)
    told = refused(folder, capsys, TRAIN)
    assert "cannot read the sample data/unc/train_batch/unc_train_0.npz" in told
    assert "delete it and build it again" in told


def test_vocabulary_that_is_missing(folder, capsys):
    os.remove("data/vocabulary_Gref.txt")
    told = refused(folder, capsys, TRAIN)
    assert "no file data/vocabulary_Gref.txt" in told and "data/README.md" in told


def test_backbone_that_is_missing(folder, capsys):
    shutil.rmtree("data/weights")
    told = refused(folder, capsys, TRAIN)
    assert "no backbone weights data/weights/deeplab_resnet_init.ckpt" in told
    assert "data/README.md" in told and "--backbone random" in told


def test_word_vectors_that_are_missing(folder, capsys):
    os.remove("data/Gref_emb.npy")
    told = refused(folder, capsys, TRAIN + "-emb")
    assert "data/Gref_emb.npy" in told and "python -m util.glove" in told


def test_word_vectors_of_another_vocabulary(folder, capsys):
    np.save("data/Gref_emb.npy", np.zeros((8, 5)))
    told = refused(folder, capsys, TRAIN + "-emb")
    assert "holds an array of (8, 5), but the vocabulary has 7 words" in told


def test_folder_that_has_snapshots_already(folder, capsys):
    told = refused(folder, capsys, TRAIN.replace("new", "ckpts"))
    assert (
        "ckpts has snapshots of unc already: go on with --resume, choose another "
        in told
    )


def test_images_that_are_not_of_input_size(folder, capsys):
    told = refused(folder, capsys, TRAIN.replace("-t train", "-t val"))
    assert "unc_val_0.npz shows an image of 30x20" in told
    assert "train on a split with train in its name" in told


def test_compact_samples_are_told_of_by_their_image(folder, capsys):
    assert convert.main("-d unc -t val".split()) == 0
    capsys.readouterr()
    told = refused(folder, capsys, TRAIN.replace("-t train", "-t val"))
    assert "unc_val_picture_0.npz shows an image of 30x20" in told
    os.remove("data/unc/val_batch/unc_val_picture_0.npz")
    told = refused(folder, capsys, TEST + "-i 20")
    assert "data/unc/val_batch/unc_val_picture_0.npz is missing" in told


class Small(LSTM_model):
    """A network of one variable."""

    def __init__(self, **options):
        tf.get_variable("conv1/weights", [1])


def test_backbone_without_a_known_variable(folder, capsys, monkeypatch):
    """Told only when the network stands; nothing is left all the same."""
    monkeypatch.setattr(trainval_model, "model_class", lambda args: Small)
    told = refused(folder, capsys, TRAIN)
    assert "deeplab_resnet_init.ckpt has no variable of the backbone" in told
