"""util.inference.predictor: a snapshot is read with its own words only."""

import json

import pytest

from util.core.errors import UserError
from util.data import build_info, datasets, vocabularies
from util.graph import checkpoint
from util.inference import predictor
from util.training import snapshots

WORDS = "<pad>\n<unk>\nleft\nbox\n"
OTHER = "<pad>\n<unk>\nbox\nleft\n"


@pytest.fixture
def snapshot(tmp_path):
    """A path of a snapshot with its words next to it; data/ has the same ones."""
    (tmp_path / "data" / "unc" / "val_batch").mkdir(parents=True)
    (tmp_path / "data" / "vocabulary_Gref.txt").write_text(WORDS)
    (tmp_path / "ck").mkdir()
    (tmp_path / "ck" / "vocabulary.txt").write_text(WORDS)
    (tmp_path / "data" / "unc" / "val_batch" / "unc_val_0.npz").write_text("")
    return checkpoint.path(str(tmp_path / "ck"), "unc", 1)


def write_state(snapshot, words):
    path = snapshot + ".words"
    with open(path, "w") as file:
        file.write(words)
    with open(snapshot + checkpoint.STATE, "w") as file:
        json.dump({"step": 1, "vocabulary": vocabularies.checksum(path)}, file)


def build(tmp_path, words):
    (tmp_path / "built.txt").write_text(words)
    checksum = vocabularies.checksum(str(tmp_path / "built.txt"))
    build_info.write(
        str(tmp_path / "data" / "unc" / "val_batch"),
        {"sentences": 1, "vocabulary": checksum},
        complete=True,
    )


def check(tmp_path, snapshot):
    dataset = datasets.get("unc", str(tmp_path / "data"))
    predictor.check_samples(snapshot, dataset, "val")


def test_samples_of_the_same_words_are_taken(tmp_path, snapshot):
    check(tmp_path, snapshot)  # without a record
    build(tmp_path, WORDS)
    check(tmp_path, snapshot)
    write_state(snapshot, WORDS)
    check(tmp_path, snapshot)


def test_samples_of_other_words_are_refused(tmp_path, snapshot):
    build(tmp_path, OTHER)
    with pytest.raises(UserError, match="built with another vocabulary than .*ck"):
        check(tmp_path, snapshot)


def test_snapshot_without_words_of_its_own_knows_those_of_the_data_set(
    tmp_path, snapshot
):
    (tmp_path / "ck" / "vocabulary.txt").unlink()
    build(tmp_path, OTHER)
    with pytest.raises(UserError, match="another vocabulary than .*vocabulary_Gref"):
        check(tmp_path, snapshot)
    (tmp_path / "data" / "vocabulary_Gref.txt").unlink()
    check(tmp_path, snapshot)  # nothing to compare with


def test_vocabulary_that_was_exchanged_is_refused(tmp_path, snapshot):
    words = str(tmp_path / "ck" / "vocabulary.txt")
    write_state(snapshot, OTHER)
    with pytest.raises(UserError, match="was trained with another vocabulary than"):
        predictor.check_vocabulary(snapshot, words)


def test_other_vocabulary_that_is_named_is_refused(tmp_path, snapshot):
    (tmp_path / "mine.txt").write_text(OTHER)
    with pytest.raises(UserError, match=r"mine.txt is another vocabulary than .*ck"):
        predictor.check_vocabulary(snapshot, str(tmp_path / "mine.txt"))
    (tmp_path / "mine.txt").write_text(WORDS)
    predictor.check_vocabulary(snapshot, str(tmp_path / "mine.txt"))


def test_vocabulary_next_to_snapshots_is_never_overwritten(tmp_path, snapshot):
    (tmp_path / "mine.txt").write_text(OTHER)
    folder = str(tmp_path / "ck")
    with pytest.raises(UserError, match="is another vocabulary than .*mine.txt"):
        snapshots.check_words(folder, str(tmp_path / "mine.txt"))
    snapshots.check_words(folder, str(tmp_path / "data" / "vocabulary_Gref.txt"))
    snapshots.check_words(str(tmp_path / "new"), str(tmp_path / "mine.txt"))
