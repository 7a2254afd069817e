"""util.training.start: a run that begins with the weights of another one."""

import pytest
from variables import load, save

from util.core.errors import UserError
from util.models import base
from util.training import start


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
