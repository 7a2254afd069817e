"""What `text_processing` does, as operations of a graph.

`strings.lower` and the classes of letters are those of the Unicode version that
TensorFlow was built with; what is not ASCII may differ from Python there (this folder's
README says how often).

Axes: B batch of sentences, T words.
"""

import itertools
import re
import unicodedata
from typing import IO, Collection, Dict, List

from util.data.text_processing import (
    ASCII,
    FULL_STOPS,
    JOINERS,
    LEFT_OUT,
    MAX_WORDS,
    PARTING,
    UNICODE,
    UNKNOWN,
    rule_of,
)
from util.graph.compat import tf

# Between words; in the sentence both become OTHER, which is no word either. (NUL would
# end a sentence early in TensorFlow.)
SEPARATOR, NUL, OTHER = "\x01", "\0", "\x02"
COLUMN = "\t"  # between a word and its id in the table's file

_BLANKS = [chr(code) for code in range(0x3001) if chr(code).isspace()]
_BLANK_CLASS = "".join(f"\\x{{{ord(blank):x}}}" for blank in _BLANKS)
_BLANK = f"[{_BLANK_CLASS}]+"
_NON_WORD = "[^0-9A-Za-z_]+"  # \W, without a doubt what it means
_WORD_OF_ANY = f"[\\p{{L}}\\p{{M}}\\p{{N}}_{JOINERS}]+"


def unusable_words(words: List[str]) -> List[str]:
    """Return those words of a vocabulary that the operations below cannot find."""
    reserved = {SEPARATOR, NUL, OTHER, COLUMN}
    return [word for word in words if reserved.intersection(word)]


def write_table(file: IO[str], vocab_dict: Dict[str, int]) -> None:
    """Write word and id of a vocabulary, a line each, as `ids` reads them."""
    for word, number in sorted(vocab_dict.items(), key=lambda item: item[1]):
        if word:
            file.write(f"{word}{COLUMN}{number}\n")


def tokenize(sentences, rule=ASCII):
    """Split sentences into lower-case words, see `text_processing.tokenize`.

    Args:
      sentences: string [B], UTF-8.
      rule: ASCII or UNICODE; words of the latter keep the form that they are typed in.

    Returns:
      SparseTensor string [B, words of the longest one].
    """
    marked = tf.strings.regex_replace(sentences, f"[\\x00{SEPARATOR}]", OTHER)
    mark = {ASCII: _mark_ascii, UNICODE: _mark_unicode}[rule]
    words = tf.string_split(mark(marked), SEPARATOR)
    return tf.SparseTensor(words.indices, _lower(words.values), words.dense_shape)


def _mark_ascii(sentences):
    """Put SEPARATOR between the words of sentences."""
    replace = tf.strings.regex_replace
    marked = replace(sentences, f"\\A{_BLANK}|{_BLANK}\\z", "")
    marked = replace(marked, _NON_WORD, SEPARATOR + "\\0" + SEPARATOR)
    marked = replace(marked, SEPARATOR + _BLANK + SEPARATOR, SEPARATOR)
    return replace(marked, f"{SEPARATOR}\\.{SEPARATOR}\\z", "")


def _mark_unicode(sentences):
    """Put SEPARATOR between the words of sentences."""
    replace = tf.strings.regex_replace
    marked = replace(sentences, f"[{LEFT_OUT}]", "")
    marked = replace(marked, f"[{_BLANK_CLASS}{PARTING}]+", SEPARATOR)
    marked = replace(marked, _WORD_OF_ANY, SEPARATOR + "\\0" + SEPARATOR)
    return replace(marked, f"(\\A|{SEPARATOR})[{FULL_STOPS}]{SEPARATOR}*\\z", "")


def _lower(words):
    """Do as str.lower, in every language that the process may run in."""
    words = tf.strings.lower(words)  # a Turkish ICU would not make an i of an I
    words = tf.strings.regex_replace(words, "\u0130", "i\u0307")
    return tf.strings.lower(words, encoding="utf-8")


def _in_nfc(words, vocab_dict):
    """Bring lower-case words to the form NFC, as far as a vocabulary needs it.

    Args:
      words: string [N].
      vocab_dict: word -> id; what is in none of its words stays as it is.

    Returns:
      string [N].
    """
    for letters, spellings in other_spellings(vocab_dict).items():
        pattern = "|".join(map(re.escape, spellings))
        words = tf.strings.regex_replace(words, pattern, letters)
    return words


def other_spellings(words: Collection[str]) -> Dict[str, List[str]]:
    """Return letters of words in NFC -> how else they can be spelled.

    Those with fewer marks come first: what they become may be a part of others.

    Example:
      >>> found = other_spellings(["\u1ec7"])["\u1ec7"]
      >>> print(*map(ascii, sorted(found, key=len)))
      '\\xea\\u0323' '\\u1eb9\\u0302' 'e\\u0302\\u0323' 'e\\u0323\\u0302'
    """
    text, found = " ".join(words), {}
    for letter in sorted(set(text), key=lambda one: (len(_apart(one)), one)):
        first, *marks = _apart(letter)
        mixed = {
            _composed(first + "".join(order[:cut])) + "".join(order[cut:])
            for order in itertools.permutations(marks)
            for cut in range(len(marks))
        }
        alike = sorted(one for one in mixed if _composed(one) == letter)
        if alike:
            found[letter] = alike
    for code in range(0x80, 0x30000):  # those that no text in NFC has
        letters = _composed(chr(code))
        if letters != chr(code) and letters in text:
            found.setdefault(letters, []).append(chr(code))
    return found


def _apart(text):
    return unicodedata.normalize("NFD", text)


def _composed(text):
    return unicodedata.normalize("NFC", text)


def ids(sentences, table_file, vocab_dict):
    """Turn sentences into ids, see `text_processing.preprocess_sentence`.

    Args:
      sentences: string [B], UTF-8.
      table_file: path of what `write_table` wrote; becomes an asset of a SavedModel.
      vocab_dict: word -> id, the same.

    Returns:
      int32 [B, T], padded in front. It cannot be computed where a sentence has no
      words.
    """
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            table_file, tf.string, 0, tf.int64, 1, delimiter=COLUMN
        ),
        vocab_dict[UNKNOWN],
    )
    rule = rule_of(vocab_dict)
    words = tokenize(sentences, rule)
    values = _in_nfc(words.values, vocab_dict) if rule == UNICODE else words.values
    row, place = tf.unstack(words.indices, axis=1)
    number = tf.size(sentences, out_type=tf.int64)
    count = tf.unsorted_segment_sum(tf.ones_like(row), row, number)
    has_words = tf.reduce_all(count > 0)
    message = ["a sentence has no words; words of each:", count]
    with tf.control_dependencies([tf.Assert(has_words, message)]):
        padding = MAX_WORDS - tf.minimum(count, MAX_WORDS)
    first = place < MAX_WORDS
    row, place = tf.boolean_mask(row, first), tf.boolean_mask(place, first)
    place = tf.stack([row, place + tf.gather(padding, row)], axis=1)
    found = table.lookup(tf.boolean_mask(values, first))
    shape = tf.stack([number, MAX_WORDS])
    found = tf.scatter_nd(place, tf.cast(found, tf.int32), shape)
    found.set_shape([None, MAX_WORDS])
    return found
