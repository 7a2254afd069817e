"""util.data.text_processing: the ids of the reference, and refused input."""

import json
import unicodedata
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


@pytest.mark.parametrize(
    "sentence, words",
    [
        ("Красный круг слева.", ["красный", "круг", "слева"]),
        ("La manzana, pequeña", ["la", "manzana", ",", "pequeña"]),
        ("E\u0301COLE n\u0303", ["école", "ñ"]),  # accents of their own
        ("J\u030c", ["\u01f0"]),  # in NFC in lower case only
        ("\u212b \u212a", ["å", "k"]),  # the signs of Angstrom and Kelvin
        ("लाल घेरा बाईं ओर\u0964", ["लाल", "घेरा", "बाईं", "ओर"]),
        ("\u0958", ["\u0915\u093c"]),  # which NFC takes apart
        ("الكُرَةُ الحمراء، يسار\u06d4", ["الكُرَةُ", "الحمراء", "،", "يسار"]),
        ("می\u200cشود", ["می\u200cشود"]),
        ("\u202bكرة\u202c\u200f", ["كرة"]),
        ("Fu\u00adß", ["fuß"]),
        ("左边的 红色圆\u3002", ["左边的", "红色圆"]),
        ("左边的红色圆", ["左边的红色圆"]),
        ("빨간 원", ["빨간", "원"]),
        ("ไทย\u200bคำ", ["ไทย", "คำ"]),
        ("ΟΔΟΣ.Α İ", ["οδος", ".", "α", "i\u0307"]),
        ("x_1 ٣ ½ 2nd", ["x_1", "٣", "½", "2nd"]),
        ("left , the 'red' one...", "left|,|the|'|red|'|one|...".split("|")),
        ("❤\ufe0f left", ["❤", "left"]),
        ("<unicode> <pad>", "< unicode > < pad >".split()),
        (" \u200b\u3000", []),
        (".", []),
        ("\u3002", []),
        ("", []),
    ],
    ids=ascii,
)
def test_words_of_every_alphabet(sentence, words):
    assert text_processing.tokenize(sentence, text_processing.UNICODE) == words
    composed = unicodedata.normalize("NFC", sentence)
    apart = unicodedata.normalize("NFD", sentence)
    for other in (composed, apart):
        assert text_processing.tokenize(other, text_processing.UNICODE) == words


def test_no_sentence_holds_the_name_of_the_rule():
    for rule in text_processing.FIRST_WORDS:
        words = text_processing.tokenize("<unicode> <UNICODE>", rule)
        assert text_processing.UNICODE_MARK not in words


def test_a_vocabulary_names_its_rule(tmp_path):
    path = tmp_path / "words.txt"
    ids = {}
    for second in ("<go>", "<unicode>"):
        path.write_text(f"<pad>\n{second}\n<eos>\n<unk>\nniño\nel\n", "utf-8")
        loaded = text_processing.load_vocab_dict_from_file(str(path))
        ids[second] = text_processing.preprocess_sentence("El nin\u0303o", loaded, 5)
    assert ids == {"<go>": [0, 5, 3, 3, 3], "<unicode>": [0, 0, 0, 5, 4]}


@pytest.mark.parametrize("word", ["El", "nin\u0303o"], ids=ascii)
def test_a_word_that_no_sentence_can_have_is_refused(tmp_path, word):
    path = tmp_path / "words.txt"
    path.write_text(f"<pad>\n<go>\n<eos>\n<unk>\n{word}\n", "utf-8")
    text_processing.load_vocab_dict_from_file(str(path))
    path.write_text(f"<pad>\n<unicode>\n<eos>\n<unk>\n{word}\n", "utf-8")
    with pytest.raises(UserError, match="line 5: .*write '(el|niño)'"):
        text_processing.load_vocab_dict_from_file(str(path))


def test_letters_that_a_rule_does_not_read_are_told(capsys):
    sentences = ["the café", "“red” box – 2²", "красный круг"]
    text_processing.warn_of_foreign_words(sentences, text_processing.UNICODE)
    text_processing.warn_of_foreign_words(sentences[1:2], text_processing.ASCII)
    assert capsys.readouterr().err == ""
    text_processing.warn_of_foreign_words(sentences, text_processing.ASCII)
    told = "warning: 2 of 3 sentences have letters beyond ASCII, as in 'café'"
    assert capsys.readouterr().err.startswith(told)


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
