"""util.training.start: a run that begins with the weights of another one."""

import json
import types

import pytest
from variables import load, save

from util.core import files
from util.core.errors import UserError
from util.models import base
from util.training import start, train


class Model(base.Model):
    """Names its table of words and its counter of steps."""

    WORD_TABLE, STEP_COUNTER = "text_objseg/Variable", "text_objseg/Variable_1"


TABLE = {"text_objseg/Variable": [4, 2], "text_objseg/a": [2, 3]}
SLOTS = {
    "text_objseg/Variable_1": [],
    "text_objseg/text_objseg/a/Adam": [2, 3],
    "text_objseg/beta1_power": [],
}


def load_weights(path, values, words, known):
    return load(
        lambda session, file: start.load_weights(session, Model, file, words, known),
        path,
        values,
    )


def test_weights_of_another_run_come_without_its_training(tmp_path):
    path = save(tmp_path, dict(TABLE, **SLOTS))
    words = ["<pad>", "<unk>", "left", "box"]
    _, values = load_weights(path, dict(TABLE, **SLOTS), words, None)
    assert (values["text_objseg/Variable"] == 1).all()
    assert (values["text_objseg/a"] == 2).all()
    assert all((values[name] == 0).all() for name in SLOTS)


def test_words_that_both_know_keep_their_vectors(tmp_path):
    path = save(tmp_path, TABLE)
    wanted = dict(TABLE, **{"text_objseg/Variable": [5, 2]})
    words = ["<pad>", "<unk>", "right", "box", "tree"]
    said, values = load_weights(path, wanted, words, ["<pad>", "<unk>", "left", "box"])
    assert said.endswith("; 3 of 5 words have their vectors from it")
    assert values["text_objseg/Variable"][:, 0].tolist() == [1, 1, 0, 1, 0]
    assert (values["text_objseg/a"] == 2).all()


def test_other_vocabulary_that_nobody_named_is_refused(tmp_path):
    path = save(tmp_path, TABLE)
    with pytest.raises(UserError, match="knows 4 words, .* with --init-vocabulary"):
        load_weights(path, TABLE, ["<pad>", "<unk>"], None)
    with pytest.raises(UserError, match="knows 4 words, but the vocabulary named has"):
        load_weights(path, TABLE, ["<pad>"] * 4, ["<pad>"])


STATE = {"step": 6, "seed": 1, "samples": 48, "positions": [4]}


def training_set(tmp_path):
    """Return a stand-in for a training set of 48 samples."""
    words = tmp_path / "words.txt"
    words.write_text("<pad>\n<unk>\nleft\nbox\n")
    dataset = types.SimpleNamespace(name="unc", vocabulary_file=str(words))
    return types.SimpleNamespace(
        dataset=dataset, number=48, folder="samples", sentences_per_image=1
    )


def save_run(folder, *steps, **more):
    """Leave snapshots with their states; return their paths."""
    folder.mkdir(exist_ok=True)
    paths = [save(folder, TABLE, step) for step in steps]
    for step, path in zip(steps, paths):
        with open(path + ".state.json", "w") as file:
            json.dump(dict(STATE, step=step, **more), file)
    return paths


@pytest.mark.parametrize(
    "end, content",
    [
        (".data-00000-of-00001", b""),
        (".data-00000-of-00001", b"x" * 40),
        (".index", b""),
        (".state.json", b""),
        (".state.json", b'{"step": 6}'),
    ],
)
def test_damaged_newest_snapshot_is_told_and_the_one_before_taken(
    tmp_path, capsys, end, content
):
    folder = tmp_path / "run"
    older, newest = save_run(folder, 4, 6)
    assert resume(tmp_path).step == 6 and not capsys.readouterr().err
    with open(newest + end, "wb") as file:
        file.write(content)
    state = resume(tmp_path)
    assert (state.step, state.snapshot) == (4, older)
    told = capsys.readouterr().err
    assert told.startswith("warning: ") and f"going on from {older}\n" in told
    with open(older + end, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="unc_iter_6.tfmodel"):  # none is left
        resume(tmp_path)


def resume(tmp_path):
    return start.resume_state(str(tmp_path / "run"), training_set(tmp_path), True)


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"step": 6},
        dict(STATE, step="6"),
        dict(STATE, step=True),
        dict(STATE, positions=[]),
        dict(STATE, positions=4),
        dict(STATE, positions=["a"]),
        dict(STATE, best=3),
        dict(STATE, averages={"loss": 1.0}),
        dict(STATE, evaluated=None),
    ],
)
def test_state_of_another_version_is_one_line(tmp_path, state):
    (path,) = save_run(tmp_path / "run", 6)
    with open(path + ".state.json", "w") as file:
        json.dump(state, file)
    with pytest.raises(UserError, match="state.json"):
        resume(tmp_path)


def test_what_a_state_has_more_is_left_alone(tmp_path):
    save_run(tmp_path / "run", 6, more=1)
    assert resume(tmp_path).positions == [4]


def train_in(folder, monkeypatch, tmp_path):
    """Begin `-m train` in a folder, up to its state."""
    wanted = training_set(tmp_path)
    monkeypatch.setattr(train.datasets, "get", lambda *_: wanted.dataset)
    monkeypatch.setattr(train, "TrainingSet", lambda *_: wanted)
    monkeypatch.setattr(train, "find_machine", lambda *_: train.Machine())
    names = (
        "dataset data batches split skip_damaged batch_size threads precision seed xla"
    )
    names = [*names.split(), "sentences_per_image", *train.models.OPTIONS]
    args = types.SimpleNamespace(**dict.fromkeys(names))
    args.folder, args.resume, args.gpus = str(folder), False, "0"
    train.run(Model, args)


def test_folder_that_is_taken_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save_run(folder, 6)
    with files.locked(str(folder)):
        with pytest.raises(UserError, match="another process writes in"):
            train_in(folder, monkeypatch, tmp_path)
    with pytest.raises(UserError, match="go on with --resume"):
        train_in(folder, monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"cannot use the name 'a\[1\]'"):
        train_in("a[1]", monkeypatch, tmp_path)
    (folder / "gref_iter_1.tfmodel.index").write_text("")
    with pytest.raises(UserError, match="belongs to a run on gref"):
        train_in(folder, monkeypatch, tmp_path)
