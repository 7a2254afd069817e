"""What `text_processing` does, as operations of a graph.

`strings.lower` and the classes of letters are those of the Unicode version that
TensorFlow was built with; what is not ASCII may differ from Python there (this folder's
README says how often).

Axes: B batch of sentences, T words.
"""

import unicodedata
from typing import IO, Dict, List

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
    """Write word and id of a vocabulary, a line each, as `ids` reads them.

    TensorFlow cannot bring a word to the form NFC: those of the rule UNICODE stand
    there in NFD too.
    """
    for word, number in sorted(vocab_dict.items(), key=lambda item: item[1]):
        spellings = [word]
        if rule_of(vocab_dict) == UNICODE:
            spellings.append(unicodedata.normalize("NFD", word))
        for spelling in sorted(set(filter(None, spellings))):
            file.write(f"{spelling}{COLUMN}{number}\n")


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
    words = tokenize(sentences, rule_of(vocab_dict))
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
    found = table.lookup(tf.boolean_mask(words.values, first))
    shape = tf.stack([number, MAX_WORDS])
    found = tf.scatter_nd(place, tf.cast(found, tf.int32), shape)
    found.set_shape([None, MAX_WORDS])
    return found
