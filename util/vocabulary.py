"""Make a vocabulary: the words of some sentences, one a line, frequent ones first.

Words that are left out become <unk>. A model belongs to the vocabulary that it was
trained with: never exchange it later. Where sentences of your own have letters beyond
ASCII, the vocabulary reads those of every alphabet, and its second line says so.
"""

import argparse
import collections
import os
import sys
import unicodedata
from typing import Counter, Iterable, List, Optional, Sequence

from util.core.cli import OneLineParser, command
from util.core.errors import Mistakes, UserError
from util.core.files import MAX_TEXT, require_file, writing
from util.data import annotations, custom, datasets, forms, refcoco, referit
from util.data.datasets import Dataset
from util.data.text_processing import (
    ASCII,
    FIRST_WORDS,
    JOINERS,
    UNICODE,
    foreign_words,
    load_vocab_dict_from_file,
    read_words,
    rule_of,
    tokenize,
    warn_of_foreign_words,
)

EXAMPLES = """examples:
  python -m util.vocabulary -d unc --min-count 2 --output data/vocabulary_unc.txt
  python -m util.vocabulary mine.txt more.json "refs(unc).p" --output my.txt
  python -m util.vocabulary more.json --extend ckpts/mine/vocabulary.txt --output my.txt
"""

# How Unicode's names of letters begin that are written without blanks.
WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def count_words(sentences: Iterable[str], rule: str = ASCII) -> Counter[str]:
    """Count the words of sentences, split as a model splits them."""
    return collections.Counter(
        word for sentence in sentences for word in tokenize(sentence, rule)
    )


def choose_words(
    counts: Counter[str], min_count: int = 1, rule: str = ASCII
) -> List[str]:
    """Choose the words that a vocabulary lists.

    Args:
      counts: word -> number of its occurrences.
      min_count: int, the least number of occurrences.
      rule: by which they were split, see `text_processing.tokenize`.

    Returns:
      The special words of the rule, then the others by falling count, equal ones by
      alphabet. Words that cannot be a line of a text file, such as ", " with its blank,
      are left out.
    """
    words = [
        word
        for word, count in counts.items()
        if count >= min_count and _is_printable(word) and word == word.strip()
    ]
    return [*FIRST_WORDS[rule], *sorted(words, key=lambda word: (-counts[word], word))]


def extend(older: Sequence[str], words: Sequence[str]) -> List[str]:
    """Append words to those of an older vocabulary, which keep their places.

    Example:
      >>> extend(["<pad>", "<unk>", "left"], ["<pad>", "<go>", "<unk>", "box", "left"])
      ['<pad>', '<unk>', 'left', 'box']
    """
    known = {*older, *(word for first in FIRST_WORDS.values() for word in first)}
    return [*older, *(word for word in words if word not in known)]


def _is_printable(word):
    return "".join(letter for letter in word if letter not in JOINERS).isprintable()


def choose_rule(sentences: Sequence[str], dataset: Optional[Dataset]) -> str:
    """Return the rule that sentences need; published data sets keep the reference's.

    Args:
      sentences: all of them.
      dataset: which they are of; None: of none.
    """
    is_published = dataset is not None and not dataset.is_custom
    needed = any(foreign_words(sentence, ASCII) for sentence in sentences)
    return UNICODE if needed and not is_published else ASCII


def warn_of_missing_blanks(sentences: Sequence[str]) -> None:
    """Say on stderr how many sentences have no blanks between their words, if any."""
    found = [text for text in map(str.strip, sentences) if _lacks_blanks(text)]
    if found:
        print(
            f"warning: {len(found)} of {len(sentences)} sentences have no blanks, as "
            f"in {found[0]!r}: what no blank parts is one word; part words by blanks",
            file=sys.stderr,
        )


def _lacks_blanks(sentence):
    names = [unicodedata.name(letter, "") for letter in sentence]
    is_one = not any(letter.isspace() for letter in sentence)
    return is_one and sum(name.startswith(WITHOUT_BLANKS) for name in names) > 2


def training_sentences(
    dataset: Dataset, mistakes: Optional[Mistakes] = None
) -> List[str]:
    """Return all sentences of a data set's training split; of all if it has none.

    Args:
      dataset: see `datasets.get`.
      mistakes: see `annotations.referents`.

    Raises:
      UserError: an annotation file is missing or damaged.
    """
    splits = dataset.splits
    return [
        sentence
        for split in [split for split in splits if "train" in split] or splits
        for referent in annotations.referents(dataset, split, mistakes)
        for sentence in referent.sentences
    ]


def read_sentences(path: str, mistakes: Optional[Mistakes] = None) -> List[str]:
    """Read the sentences of a file.

    Args:
      path: a refs(x).p, of which all splits are read; annotations of a custom data
        set (.json, .jsonl or a folder, see `util.data.forms`), of which those for
        training are read if there are any; a ReferIt query file (.json); or a text
        file with one sentence a line.
      mistakes: see `annotations.referents`.

    Raises:
      UserError: the file is missing or damaged.
    """
    if path.endswith(".p"):
        refs = refcoco.load_refs(path, mistakes)
        return [sentence["sent"] for ref in refs for sentence in ref["sentences"]]
    is_json = path.endswith(forms.ENDINGS) or os.path.isdir(path)
    if is_json and forms.is_annotations(path):
        return custom.training_sentences(path, mistakes)
    if path.endswith(".json"):
        queries = referit.load_queries(path, mistakes)
        return [sentence for sentences in queries.values() for sentence in sentences]
    try:
        with open(require_file(path, MAX_TEXT), encoding="utf-8-sig") as file:
            return list(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def read_older(path: str, rule: Optional[str] = None) -> List[str]:
    """Return the words of a vocabulary that is to be extended.

    Args:
      path: of the vocabulary.
      rule: that is asked for; None: any.

    Raises:
      UserError: the file is missing or no vocabulary, or has another rule.
    """
    load_vocab_dict_from_file(path)
    words = read_words(path)
    if rule not in (None, rule_of(words)):
        raise UserError(
            f"{path} has the rule {rule_of(words)}, not {rule}: leave out --words, or "
            "make a vocabulary without --extend"
        )
    return words


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.vocabulary",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="refs(x).p, annotations of your own or ReferIt queries (.json), or text "
        "with one sentence a line",
    )
    add("-d", dest="dataset", metavar="NAME", help="its training split")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--min-count", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--words", choices=tuple(FIRST_WORDS), help="letters that make words: ascii, "
        "those of the published vocabularies; unicode, of every alphabet (default: as "
        "the sentences need, ascii for a published data set)")  # fmt: skip
    add("--extend", metavar="FILE", help="an older vocabulary, a snapshot's for "
        "instance: begin with its words, by its rule")  # fmt: skip
    add("--output", required=True, metavar="FILE", help="the vocabulary to make")
    add("--force", action="store_true", help="replace an older vocabulary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the vocabulary that the command line asks for, and report on it."""
    if not args.dataset and not args.files:
        raise UserError("give -d or files (-h shows all options)")
    if os.path.exists(args.output) and not args.force:
        raise UserError(
            f"{args.output} is there already, and models may depend on it: "
            "choose another name, or replace it with --force"
        )
    sentences, dataset, mistakes = [], None, Mistakes()
    if args.dataset:
        dataset = datasets.get(args.dataset, args.data)
        sentences = training_sentences(dataset, mistakes)
    for path in args.files:
        sentences += read_sentences(path, mistakes)
    if mistakes:
        print(f"warning: without what is wrong: {mistakes}", file=sys.stderr)
    older = read_older(args.extend, args.words) if args.extend else []
    rule = rule_of(older) if older else args.words or choose_rule(sentences, dataset)
    counts = count_words(sentences, rule)
    words = choose_words(counts, args.min_count, rule)
    if older:
        words = extend(older, words)
    covered, total = sum(counts[word] for word in set(words)), sum(counts.values())
    if not covered:
        raise UserError("no words: the sentences are empty or --min-count is too high")
    with writing(args.output, "w") as file:
        file.writelines(word + "\n" for word in words)
    new = f", {len(words) - len(older)} of them new" if older else ""
    print(f"{args.output}: {len(words)} words{new}")
    percent = 100 * covered / total
    print(f"{covered} of {total} word occurrences covered ({percent:.1f} %)")
    if rule == UNICODE:
        print("letters of every alphabet make words (its second line says so)")
    warn_of_foreign_words(sentences, rule)
    warn_of_missing_blanks(sentences)
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
