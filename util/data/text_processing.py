"""From a sentence to the ids of its words."""

import re
from typing import Any, Dict, List

from util.core.errors import UserError
from util.core.files import require_file

MAX_WORDS = 20  # T: words of a sentence that the network reads
VOCABULARY = "vocabulary.txt"  # its file next to a snapshot
PADDING = "<pad>"
UNKNOWN = "<unk>"
SPECIAL_WORDS = (PADDING, "<go>", "<eos>", UNKNOWN)  # first in every vocabulary
# The reference ran on Python 2, where only ASCII letters count as a word.
_NON_WORD = re.compile(r"(\W+)", re.ASCII)


def tokenize(sentence: str) -> List[str]:
    """Split a sentence into lower-case words.

    Runs of non-word characters are words too, with the blanks around them; blank
    ones are left out, and so is one final ".".

    Args:
      sentence: any text.

    Returns:
      The words; an empty list where there is none.

    Example:
      >>> tokenize("Man in the front-row, left.")
      ['man', 'in', 'the', 'front', '-', 'row', ', ', 'left']
    """
    words = [w.lower() for w in _NON_WORD.split(sentence.strip()) if w.strip()]
    return words[:-1] if words[-1:] == ["."] else words


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
    words = tokenize(sentence)[:T]
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
      UserError: the file is missing, empty, not text, or lacks those two words.

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
    with open(require_file(path), encoding="utf-8-sig") as file:
        try:
            words = [line.strip() for line in file]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error}") from error
    if not words:
        raise UserError(f"the vocabulary {path} is empty")
    return words


def as_text(value: Any) -> Any:
    """Decode the byte strings of Python 2 in plain data, lists and dicts included.

    They are UTF-8, or else Latin-1.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, dict):
        return {as_text(key): as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    return value
