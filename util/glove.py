"""Make the table of pretrained word vectors of a vocabulary from a GloVe file.

GloVe files are public: https://nlp.stanford.edu/projects/glove/. The texts of fastText
(.vec) and word2vec have the same lines after a header, and are read as well. Words that
are missing there get noise, <pad> gets zeros; the table is float32 [V, D].
"""

import argparse
import contextlib
import gzip
import re
import sys
import zipfile
import zlib
from typing import IO, Collection, Iterator, List, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from util.core import cli
from util.core.cli import OneLineParser, command
from util.core.errors import UserError
from util.core.files import require_file, writing
from util.data import datasets, vocabularies
from util.data.text_processing import (
    PADDING,
    SPECIAL_WORDS,
    UNICODE_MARK,
    load_vocab_dict_from_file,
    read_words,
)

MAX_LINE = 2**20  # bytes: a few packed ones can unpack to a line of gigabytes
NOISE = 0.6  # standard deviation
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
EXAMPLES = """examples:
  python -m util.glove glove.6B.zip -d unc
  python -m util.glove glove.840B.300d.zip --vocabulary my.txt --output my_emb.npy
"""

# How many and how long, as word2vec, gensim and fastText write it first.
_HEADER = re.compile(rb"(\d{1,12}) ([1-9]\d{0,4})")
# Some words contain spaces, none of them ends in a number such as those of vectors.
_GLUED = re.compile(rb" -?\d+\.\d+(e-?\d+)?$")


def read_vectors(
    path: str, wanted: Collection[str]
) -> Iterator[Tuple[str, np.ndarray]]:
    """Read the vectors of some words from a GloVe file, in one pass.

    Args:
      path: a text file, or one packed as .zip or .gz.
      wanted: the words to look for.

    Yields:
      (word, float32 [D]) in the order of the file, whose first line decides D; it may
      be a header of two whole numbers, how many there are and D. Fewer are warned of.

    Raises:
      UserError: the file is missing or damaged, a line has another number of
        fields, or a .zip leaves open which of its files is meant.
    """
    words = {word.encode(): word for word in wanted}
    dimension, promised, number = None, 0, 0
    try:
        with _open(require_file(path)) as file:
            lines = iter(lambda: file.readline(MAX_LINE), b"")
            lines = tqdm(lines, unit=" lines", unit_scale=True)
            for number, line in enumerate(lines, 1):
                if len(line) == MAX_LINE:
                    raise UserError(
                        f"{path}, line {number}: {MAX_LINE} bytes or more, no vector"
                    )
                line = line.rstrip()
                header = _HEADER.fullmatch(line) if number == 1 else None
                if header:
                    promised, dimension = map(int, header.groups())
                    continue
                if dimension is None:
                    dimension = max(1, line.count(b" "))
                word, *numbers = line.rsplit(b" ", dimension)
                if len(numbers) != dimension or _GLUED.search(word):
                    raise UserError(
                        f"{path}, line {number}: {line.count(b' ') + 1} fields where "
                        f"a word and {dimension} numbers belong; download it again, as "
                        "text"
                    )
                if word in words:
                    yield words[word], _vector(numbers, path, number)
        if number - 1 < promised:
            print(
                f"warning: {path} has {number - 1} vectors, its first line says "
                f"{promised}: was it cut off?",
                file=sys.stderr,
            )
    except UNREADABLE as error:
        raise UserError(f"cannot read {path}: {error}; download it again") from error


def word_vectors(
    words: Sequence[str], path: str, seed: int = 0
) -> Tuple[np.ndarray, int]:
    """Give every line of a vocabulary its vector.

    Args:
      words: V words; the lines of a repeated one get the same vector.
      path: a GloVe file, see `read_vectors`. The order of its lines is of no
        account.
      seed: int, of the noise.

    Returns:
      (table, found). table: float32 [V, D], the vector of each word where there is
      one, zeros for <pad>, noise for the rest and the special words. found: how
      many of the V lines have a vector.

    Raises:
      UserError: see `read_vectors`; or no word has a vector.
    """
    lines = {}
    for line, word in enumerate(words):
        lines.setdefault(word, []).append(line)
    special = {*SPECIAL_WORDS, UNICODE_MARK}
    vectors = dict(read_vectors(path, lines.keys() - special))
    if not vectors:
        raise UserError(f"{path} has no word of the vocabulary: is it a GloVe file?")
    dimension = len(next(iter(vectors.values())))
    noise = np.random.RandomState(seed).normal(0, NOISE, [len(words), dimension])
    table = noise.astype(np.float32)
    for word, same in lines.items():
        table[same] = vectors.get(word, table[same[-1]])
    table[lines.get(PADDING, [])] = 0
    return table, sum(len(lines[word]) for word in vectors)


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    """Open a text file, or the one inside a .zip or .gz, for reading bytes."""
    if path.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            with archive.open(_member(archive, path)) as file:
                yield file
    else:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            yield file


def _member(archive: zipfile.ZipFile, path: str) -> str:
    """Choose the file of a .zip: the only one, that with 300d or the only text."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    for choice in (
        names,
        [name for name in names if "300d" in name],
        [name for name in names if name.endswith((".txt", ".vec"))],
    ):
        if len(choice) == 1:
            return choice[0]
    raise UserError(
        f"{path} holds {', '.join(names) or 'nothing'}: unpack it and name one file"
    )


def _vector(numbers: List[bytes], path: str, line: int) -> np.ndarray:
    try:
        vector = np.array([float(number) for number in numbers], np.float32)
    except ValueError as error:
        raise UserError(f"{path}, line {line}: {error}; download it again") from error
    if not np.isfinite(vector).all():
        raise UserError(f"{path}, line {line}: NaN or infinite; download it again")
    return vector


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.glove",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "vectors",
        metavar="GLOVE",
        help="GloVe text file (or fastText's, word2vec's), plain, .zip or .gz",
    )
    add("-d", dest="dataset", metavar="NAME", help="data set whose table is made")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--vocabulary", metavar="FILE", help="words (default: those of the data set)")
    add("--output", metavar="FILE", help="table (default: that of the data set)")
    add(
        "--seed",
        type=cli.seed,
        default=0,
        metavar="N",
        help="of the noise (default: 0)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the table that the command line asks for, and report the coverage."""
    vocabulary, output = args.vocabulary, args.output
    if args.dataset:
        dataset = datasets.get(args.dataset, args.data)
        if not dataset.glove:
            raise UserError(f"{dataset.name} is trained without word vectors")
        vocabulary = vocabulary or dataset.vocabulary_file
        output = output or dataset.embedding_file
    if not (vocabulary and output):
        raise UserError("give -d, or --vocabulary and --output (-h shows all options)")
    load_vocab_dict_from_file(vocabulary)  # refuses what is not a vocabulary
    words = read_words(vocabulary)
    table, found = word_vectors(words, args.vectors, args.seed)
    with writing(output) as file:
        np.save(file, table)
    vocabularies.write_table_record(output, vocabulary)
    percent = 100 * found / len(words)
    print(f"{found} of {len(words)} words found ({percent:.1f} %)")
    print(f"{output}: {table.shape[0]} x {table.shape[1]}")
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
