"""util.data.vocabularies: samples and word vectors know their words."""

import json

import numpy as np
import pytest

from util.core.errors import UserError
from util.data import build_info, vocabularies

WORDS = b"<pad>\n<unk>\nleft\nbox\n"
OTHERS = {
    "order": b"<pad>\n<unk>\nbox\nleft\n",
    "words": b"<pad>\n<unk>\nleft\ntree\n",
    "an empty word": WORDS + b"\n",
    "more": WORDS + b"tree\n",
    "fewer": b"<pad>\n<unk>\nleft\n",
}


def write(path, content=WORDS):
    path.write_bytes(content)
    return str(path)


def build(folder, vocabulary):
    settings = {"sentences": 1, "layout": "npz"}
    if vocabulary:
        settings["vocabulary"] = vocabularies.checksum(vocabulary)
    build_info.write(str(folder), settings, complete=True)
    return str(folder)


@pytest.mark.parametrize("content", [WORDS, WORDS[:-1], WORDS.replace(b"\n", b"\r\n")])
def test_line_ends_make_no_other_vocabulary(tmp_path, content):
    one, other = write(tmp_path / "one"), write(tmp_path / "other", content)
    assert vocabularies.are_same(one, other)
    assert vocabularies.are_same(other, one)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_samples_of_other_words_are_refused(tmp_path, other):
    vocabulary = write(tmp_path / "words.txt")
    folder = build(tmp_path, vocabulary)
    vocabularies.check_samples(folder, vocabulary)
    write(tmp_path / "words.txt", other)
    with pytest.raises(UserError, match="built with another vocabulary than .*words"):
        vocabularies.check_samples(folder, vocabulary)


def test_samples_that_do_not_say_it_are_taken(tmp_path):
    vocabulary = write(tmp_path / "words.txt")
    vocabularies.check_samples(str(tmp_path), vocabulary)
    vocabularies.check_samples(build(tmp_path, None), vocabulary)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_word_vectors_of_other_words_are_refused(tmp_path, other):
    vocabulary, table = write(tmp_path / "words.txt"), str(tmp_path / "my_emb.npy")
    np.save(table, np.zeros([4, 2]))
    vocabularies.check_table(table, vocabulary)  # nothing says it
    vocabularies.write_table_record(table, vocabulary)
    assert sorted(json.loads((tmp_path / "my_emb.json").read_text())) == [
        "table",
        "vocabulary",
    ]
    vocabularies.check_table(table, vocabulary)
    write(tmp_path / "words.txt", other)
    with pytest.raises(UserError, match="my_emb.npy are those of another vocabulary"):
        vocabularies.check_table(table, vocabulary)
    np.save(table, np.ones([4, 2]))  # the record is not about this one
    vocabularies.check_table(table, vocabulary)


def test_damaged_record_of_word_vectors_is_told(tmp_path):
    vocabulary, table = write(tmp_path / "words.txt"), str(tmp_path / "my_emb.npy")
    np.save(table, np.zeros([4, 2]))
    (tmp_path / "my_emb.json").write_text("[]")
    with pytest.raises(UserError, match="my_emb.json is damaged"):
        vocabularies.check_table(table, vocabulary)
