"""util.data.text_processing: the ids of the reference, and refused input."""

import json
from pathlib import Path

import pytest

from util.core.errors import UserError
from util.data import text_processing

GOLDEN = Path(__file__).parents[1] / "golden"
SENTENCES = json.loads((GOLDEN / "sentences.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """The published vocabularies, with filler where the sentences have no word."""
    files = {}
    for name, known in json.loads((GOLDEN / "words.json").read_text("utf-8")).items():
        lines = [f"no word {n}" for n in range(known["lines"])]
        for word, number in known["words"].items():
            lines[number] = word
        files[name] = tmp_path_factory.mktemp("vocabulary") / name
        files[name].write_text("".join(line + "\n" for line in lines), "utf-8")
    return files


def test_ids_are_those_of_the_reference(vocabularies):
    loaded = {
        name: text_processing.load_vocab_dict_from_file(str(path))
        for name, path in vocabularies.items()
    }
    compared = 0
    for name, sentence, ids in SENTENCES:
        if any(ids):
            got = text_processing.preprocess_sentence(sentence, loaded[name], 20)
            assert got == ids, sentence
            compared += 1
        else:
            with pytest.raises(UserError, match="has no words"):
                text_processing.preprocess_sentence(sentence, loaded[name], 20)
    assert compared == len(SENTENCES) - 2  # one sentence is "."


def test_vocabulary_sizes_count_every_line(vocabularies):
    sizes = {
        n: text_processing.vocabulary_size(str(p)) for n, p in vocabularies.items()
    }
    assert sizes == {"Gref": 12112, "referit": 8803}


@pytest.mark.parametrize(
    "sentence, words",
    [
        ("The Man's hat.", ["the", "man", "'", "s", "hat"]),
        ("left , the red one", ["left", " , ", "the", "red", "one"]),
        ("zebra...", ["zebra", "..."]),
        ("ends here. ", ["ends", "here"]),
        ("a .", ["a", " ."]),
        ("snake_case 2nd", ["snake_case", "2nd"]),
        ("caf\u00e9 \u4e2d\u6587 right", ["caf", "\u00e9 \u4e2d\u6587 ", "right"]),
        (" \t\n\u00a0", []),
        ("", []),
        (".", []),
    ],
)
def test_words(sentence, words):
    assert text_processing.tokenize(sentence) == words


WORDS = {"<pad>": 0, "<unk>": 1, "a": 2, "b": 3}


def test_padding_stands_in_front_and_long_sentences_are_cut():
    ids = text_processing.preprocess_sentence
    assert ids("b A x", WORDS, 5) == [0, 0, 3, 2, 1]
    assert ids("a b a b a", WORDS, 3) == [2, 3, 2]
    assert len(ids("a", WORDS)) == 20


@pytest.mark.parametrize("sentence", ["", "  ", ".", " . "])
def test_sentence_without_words_is_refused_by_name(sentence):
    with pytest.raises(UserError, match="no words") as caught:
        text_processing.preprocess_sentence(sentence, WORDS, 5)
    assert repr(sentence) in str(caught.value)


def test_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "v.txt").write_text("<pad>\n<unk>\n", encoding="utf-8-sig")
    found = text_processing.load_vocab_dict_from_file(str(tmp_path / "v.txt"))
    assert found == {"<pad>": 0, "<unk>": 1}


def test_last_line_of_a_repeated_word_counts(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"<pad>\n<unk>\n.\r\n\n.\n\nlast")
    assert text_processing.load_vocab_dict_from_file(str(path)) == {
        "<pad>": 0,
        "<unk>": 1,
        ".": 4,
        "": 5,
        "last": 6,
    }
    assert text_processing.vocabulary_size(str(path)) == 7


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "no file"),
        (b"", "empty"),
        (b"<pad>\na\n", "<unk>"),
        (b"<unk>\n<pad>\na\n", "first line must be <pad>"),
        (b"<pad>\n<unk>\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_bad_vocabulary_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        text_processing.load_vocab_dict_from_file(str(path))
    assert str(path) in str(caught.value)
