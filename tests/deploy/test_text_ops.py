"""util.deploy.text_ops: the graph gives the ids that Python gives."""

import contextlib
import os
import random
import string
import subprocess
import sys
import unicodedata

import pytest

from util.data.text_processing import UNICODE, preprocess_sentence, tokenize
from util.deploy import text_ops
from util.graph.compat import tf

WORDS = (
    ["<pad>", "<go>", "<eos>", "<unk>", "the", "red", "circle", "a", "b", "k", "x_1"]
    + [",", ".", "..", ". .", "'", "red", "", "é", "i\u0307", "σ", "ς", "π", "€", "😀"]
    + ["\u202e", "-", "?!", "7", "\x03"]
)
VOCAB_DICT = {word: number for number, word in enumerate(WORDS)}
NASTY = [
    "the Red circle",
    "  the red circle.  ",
    "a.",
    "a .",
    "a..",
    "a. .",
    ". . a",
    ".a",
    "a.b,a'b-a",
    "a , b",
    "a\u00a0",
    "\x1ca\x1c",
    "a\x1c\x1d\x1e\x1fb",
    "a\u3000b\u2028",
    "\u200ba",  # a blank that is none in Python
    "a\u00a0.\u00a0",
    "a\x01b\x01\x01",
    "a\x02b",
    "\x01",
    "\x01.\x01 a\x01.\x01",
    "a\0b red",
    "\0",
    "a\x03b",
    "é a É",
    "\u0130 I \u0131 i\u0307",
    "\u212a k",  # the Kelvin sign
    "ΑΣ Σ aΣ Σa",
    "a€b😀a 😀",
    "\u202ered\u202c the",
    "the\r\nred\n",
    "x_1 X_1 x_1x",
    "?! ?!a?!",
    "\\1 \\0 $ ^",
    "word " * 10000,
    "a," * 10000,
    "," * 10000 + "a",
]
WITHOUT_WORDS = ["", ".", " .", ". ", " \u00a0\x1c\t\n ", "\u3000"]


UNICODE_WORDS = (
    ["<pad>", "<unicode>", "<eos>", "<unk>", "красный", "круг", "été", "niño", "\u01f0"]
    + ["å", "घेरा", "\u0915\u093c", "كُرَة", "می\u200cشود", "圆", "원", "i\u0307", "οδος"]
    + [",", ".", "...", "،", "❤", "x_1", "½", "k", "\u1ec7", "red"]
)
UNICODE_DICT = {word: number for number, word in enumerate(UNICODE_WORDS)}
OF_EVERY_ALPHABET = [
    "Красный круг.",
    "E\u0301TE\u0301, nin\u0303o...",
    "J\u030c \u212b \u212a \u0958",
    "घेरा\u0964",
    "\u202bكُرَة\u202c\u200f، \u06d4",
    "می\u200cشود",
    "圆\u3002",
    "圆\u3002\u3002",
    "圆红",
    "원 \u110b\u116f\u11ab",
    "İ ΟΔΟΣ.red",
    "❤\ufe0fred x_1½ ½",
    "\u200bred\u200bred",
    "e\u0323\u0302 \u1ec7 \u1eb9\u0302",
    ". red",
    " . .",
    "fu\u00adß r\u00aded",
]


LOWER = """
from util.deploy import text_ops
from util.graph.compat import tf
with tf.Session() as session:
    print(ascii(session.run(text_ops.tokenize(["I \\u0130"])).values.tolist()))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function from a list of sentences, str or bytes, to their ids."""
    with running(tmp_path_factory.mktemp("table"), VOCAB_DICT) as run:
        yield run


@contextlib.contextmanager
def running(folder, vocab_dict):
    path = folder / "vocabulary.txt"
    with open(str(path), "w", encoding="utf-8") as file:
        text_ops.write_table(file, vocab_dict)
    with tf.Graph().as_default(), tf.Session() as session:
        sentences = tf.placeholder(tf.string, [None])
        ids = text_ops.ids(sentences, str(path), vocab_dict)
        assert ids.dtype == tf.int32 and ids.shape.as_list() == [None, 20]
        session.run(tf.tables_initializer())
        yield lambda texts: session.run(ids, {sentences: texts}).tolist()


@pytest.fixture(scope="module")
def run_unicode(tmp_path_factory):
    """Return the same of a vocabulary that reads every alphabet."""
    with running(tmp_path_factory.mktemp("table"), UNICODE_DICT) as run:
        yield run


def assert_same(run, sentences, vocab_dict=VOCAB_DICT):
    found = run([sentence.encode("utf-8") for sentence in sentences])
    for sentence, ids in zip(sentences, found):
        assert ids == preprocess_sentence(sentence, vocab_dict), ascii(sentence[:99])


def test_every_alphabet(run_unicode):
    assert preprocess_sentence(OF_EVERY_ALPHABET[0], UNICODE_DICT)[-2:] == [4, 5]
    assert_same(run_unicode, OF_EVERY_ALPHABET, UNICODE_DICT)
    nasty = [text for text in NASTY if tokenize(text, UNICODE)]
    assert_same(run_unicode, nasty, UNICODE_DICT)


def test_every_code_point_has_its_kind(run_unicode):
    """Those that are older than both: Unicode 3.2 says the same of them as today's.

    Thirteen notes of music are taken apart by NFC into a sign and what counts as marks.
    """
    random.seed(3)
    old = [
        chr(code)
        for code in range(1, 0x30000)
        if unicodedata.category(chr(code))
        == unicodedata.ucd_3_2_0.category(chr(code))
        not in ("Cn", "Cs", "Co")
        and not 0x1D15E <= code <= 0x1D1C0
    ]
    drawn = random.sample(old, 20000)
    drawn += [one for one in old if unicodedata.category(one)[0] in "MZCP"]
    assert_same(run_unicode, [f"red{one}red" for one in drawn], UNICODE_DICT)


@pytest.mark.parametrize(
    "sentence", ["", ".", "\u3002", " \u200b\u3000\u202c"], ids=ascii
)
def test_a_sentence_without_words_of_any_alphabet_is_refused(run_unicode, sentence):
    assert not tokenize(sentence, UNICODE)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a sentence has no words"):
        run_unicode(["red", sentence])


@pytest.mark.parametrize("sentence", NASTY, ids=lambda text: ascii(text[:9]))
def test_nasty_sentences(run, sentence):
    assert_same(run, [sentence])


def test_random_sentences(run):
    random.seed(1)
    pieces = [word for word in WORDS if "<" not in word] + ["The", "RED", "\u0130"]
    pieces += [*string.whitespace, " ", "\xa0", ".", ". ", "\x01", "\x02", "\0", "É"]
    sentences = ["".join(random.choices(pieces, k=n)) for n in range(60)] * 50
    sentences += ["".join(random.choices(pieces, k=30)) for _ in range(2000)]
    assert_same(run, [sentence for sentence in sentences if tokenize(sentence)])


def test_random_code_points(run):
    """A letter that ICU lowers in another way is unknown in both."""
    random.seed(2)
    drawn = (chr(random.randrange(0xD800)) for _ in range(20000))
    assert_same(run, [f"{one}a{next(drawn)}a" for one in drawn])


@pytest.mark.parametrize("sentence", WITHOUT_WORDS, ids=ascii)
def test_a_sentence_without_words_is_refused(run, sentence):
    assert not tokenize(sentence)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a sentence has no words"):
        run(["red", sentence])


def test_bytes_that_are_no_text_are_unknown(run):
    assert run([b"red \xff\xfe circle"])[0][17:] == [16, 3, 6]


def test_capitals_of_europe_are_lowered_as_in_python():
    capitals = [chr(code) for code in range(1, 0x530) if chr(code).isupper()]
    with tf.Graph().as_default(), tf.Session() as session:
        words = text_ops.tokenize(tf.constant([one.encode() for one in capitals]))
        found = [word.decode() for word in session.run(words).values]
    assert found == [one.lower() for one in capitals]


def test_a_turkish_process_lowers_alike():
    lines = subprocess.check_output(
        [sys.executable, "-c", LOWER],
        env=dict(
            os.environ, LC_ALL="tr_TR.UTF-8", PYTHONPATH=os.pathsep.join(sys.path)
        ),
        universal_newlines=True,
    )
    wanted = [word.encode() for word in ("i", " i\u0307")]
    assert lines.splitlines()[-1] == ascii(wanted)


def test_words_that_cannot_be_found_are_told():
    assert text_ops.unusable_words(WORDS) == []
    odd = [",\t,", "\x01", "a\0", "\x02"]
    assert text_ops.unusable_words(["a", *odd, "b"]) == odd
