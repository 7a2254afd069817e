"""From a sentence to the ids of its words, by the rule that its vocabulary names."""

import itertools
import re
import sys
import unicodedata
from typing import Any, Collection, Dict, List, Sequence

from util.core.errors import UserError
from util.core.files import MAX_TEXT, require_file

MAX_WORDS = 20  # T: words of a sentence that the network reads
VOCABULARY = "vocabulary.txt"  # its file next to a snapshot
PADDING = "<pad>"
UNKNOWN = "<unk>"
SPECIAL_WORDS = (PADDING, "<go>", "<eos>", UNKNOWN)  # first in every vocabulary

ASCII, UNICODE = "ascii", "unicode"  # rules of what a word is, see `tokenize`
# A vocabulary with this line has the rule UNICODE. It takes the place of "<go>", which
# no network reads, and no sentence can hold it.
UNICODE_MARK = "<unicode>"
FIRST_WORDS = {ASCII: SPECIAL_WORDS, UNICODE: (PADDING, UNICODE_MARK, "<eos>", UNKNOWN)}

# The reference ran on Python 2, where only ASCII letters count as a word.
_NON_WORD = re.compile(r"(\W+)", re.ASCII)

# What UNICODE needs to know besides Unicode's own properties.
JOINERS = "\u200c\u200d"  # inside words, of Persian for instance
PARTING = "\u200b"  # a blank that has no width
# Hyphens that are seen at a line's end only, directions, variants of a sign.
LEFT_OUT = "\u00ad\u200e\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff"
FULL_STOPS = ".\u3002\u0964\u06d4"
_LEFT_OUT = re.compile(f"[{LEFT_OUT}]")


def rule_of(words: Collection[str]) -> str:
    """Return the rule that a vocabulary names, ASCII or UNICODE.

    Args:
      words: its lines, or word -> id.
    """
    return UNICODE if UNICODE_MARK in words else ASCII


def tokenize(sentence: str, rule: str = ASCII) -> List[str]:
    """Split a sentence into lower-case words.

    Args:
      sentence: any text.
      rule: ASCII, the reference's: ASCII letters, digits and "_" make words; runs of
        other characters are words too, with the blanks around them; one final "." is
        left out. UNICODE: letters, combining marks and numbers of any alphabet and "_"
        make words, in NFC; runs of other characters are words too, without blanks; one
        final full stop is left out, and so are characters that are not seen.

    Returns:
      The words; an empty list where there is none.

    Example:
      >>> tokenize("Man in the front-row, left.")
      ['man', 'in', 'the', 'front', '-', 'row', ', ', 'left']
      >>> print(tokenize("El Niño, a la izquierda.", UNICODE))
      ['el', 'niño', ',', 'a', 'la', 'izquierda']
    """
    if rule == ASCII:
        words = [w.lower() for w in _NON_WORD.split(sentence.strip()) if w.strip()]
        return words[:-1] if words[-1:] == ["."] else words
    text = _LEFT_OUT.sub("", unicodedata.normalize("NFC", sentence))
    runs = itertools.groupby(text, _kind)
    words = [spelled("".join(letters)) for kind, letters in runs if kind != "blank"]
    return words[:-1] if words and words[-1] in tuple(FULL_STOPS) else words


def _kind(character):
    if character.isspace() or character == PARTING:
        return "blank"
    if character == "_" or character in JOINERS:
        return "word"
    return "word" if unicodedata.category(character)[0] in "LMN" else "other"


def spelled(word: str) -> str:
    """Return a word as vocabularies of the rule UNICODE have it: lower case, NFC.

    Example:
      >>> spelled("E\u0301") == "\u00e9"
      True
    """
    return unicodedata.normalize("NFC", word.lower())


def foreign_words(sentence: str, rule: str) -> List[str]:
    """Return the words with letters that a rule does not read.

    Example:
      >>> foreign_words("the café", ASCII), foreign_words("the café", UNICODE)
      (['café'], [])
    """
    if rule == UNICODE or sentence.isascii():
        return []
    return [word for word in tokenize(sentence, UNICODE) if _has_foreign_letter(word)]


def _has_foreign_letter(word):
    return any(c > "\x7f" and unicodedata.category(c)[0] in "LM" for c in word)


def warn_of_foreign_words(sentences: Sequence[str], rule: str) -> None:
    """Say on stderr how many sentences have `foreign_words`, if any."""
    found = [words for words in (foreign_words(s, rule) for s in sentences) if words]
    if found:
        print(
            f"warning: {len(found)} of {len(sentences)} sentences have letters beyond "
            f"ASCII, as in {found[0][0]!r}, which make no words for this vocabulary; "
            "data/README.md tells of one that reads every alphabet",
            file=sys.stderr,
        )


def preprocess_sentence(
    sentence: str, vocab_dict: Dict[str, int], T: int = MAX_WORDS
) -> List[int]:
    """Turn a sentence into T ids.

    Args:
      sentence: any text with at least one word.
      vocab_dict: word -> id, see `load_vocab_dict_from_file`.
      T: number of ids; words after the first T are dropped.

    Returns:
      T ids; padding, id 0, stands in front.

    Raises:
      UserError: there is no word in the sentence.

    Example:
      >>> vocab_dict = {"<pad>": 0, "<unk>": 1, "left": 2, "man": 3}
      >>> preprocess_sentence("left old man", vocab_dict, T=5)
      [0, 0, 2, 1, 3]
    """
    words = tokenize(sentence, rule_of(vocab_dict))[:T]
    if not words:
        raise UserError(f"the sentence {sentence!r} has no words")
    ids = [vocab_dict.get(word, vocab_dict[UNKNOWN]) for word in words]
    return [vocab_dict[PADDING]] * (T - len(ids)) + ids


def load_vocab_dict_from_file(path: str) -> Dict[str, int]:
    """Read a vocabulary.

    Args:
      path: file with one word a line; the first is <pad>, and <unk> is there.

    Returns:
      word -> number of its line, from 0; of a repeated word the last line.

    Raises:
      UserError: the file is missing, empty, not text, or lacks those two words; or
        its rule is UNICODE, and a word is spelled as no sentence can have it.

    Example:
      >>> with open("vocabulary.txt", "w") as file:
      ...     number = file.write("<pad>\\n<unk>\\nleft\\n")
      >>> load_vocab_dict_from_file("vocabulary.txt")
      {'<pad>': 0, '<unk>': 1, 'left': 2}
    """
    words = read_words(path)
    vocab_dict = {word: number for number, word in enumerate(words)}
    if vocab_dict.get(PADDING) != 0 or UNKNOWN not in vocab_dict:
        raise UserError(
            f"{path} is not a vocabulary: its first line must be {PADDING}, "
            f"and a line {UNKNOWN} must follow"
        )
    if rule_of(words) == UNICODE:
        for number, word in enumerate(words, 1):
            if word != spelled(word):
                raise UserError(
                    f"{path}, line {number}: {word!r} is not in lower case and "
                    f"Unicode's form NFC: write {spelled(word)!r}"
                )
    return vocab_dict


def vocabulary_size(path: str) -> int:
    """Return V, the number of lines of a vocabulary, repeated words included.

    Raises:
      UserError: the file is missing, empty or not text.
    """
    return len(read_words(path))


def read_words(path: str) -> List[str]:
    """Return the words of a vocabulary, a line each, repeated ones included.

    Raises:
      UserError: the file is missing, empty or not text.
    """
    with open(require_file(path, MAX_TEXT), encoding="utf-8-sig") as file:
        try:
            words = [line.strip() for line in file]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error}") from error
    if not words:
        raise UserError(f"the vocabulary {path} is empty")
    return words


def decoded(value: Any) -> Any:
    """Decode a byte string, which is UTF-8 or else Latin-1; return others as they are.

    Example:
      >>> decoded(b"caf\\xe9"), decoded(7)
      ('café', 7)
    """
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
