"""What holds word ids says which vocabulary they are of: a checksum of its file.

Samples say it in their build.json, snapshots in their .state.json and by the
vocabulary.txt next to them, tables of word vectors in a record next to them, exports
in their model.json; machines that train together compare theirs. What is older says
nothing and is taken as it is.
"""

import hashlib
import os
from typing import Optional, Set

from util.core import files
from util.core.errors import UserError
from util.data import build_info, text_processing


def checksum(path: str) -> str:
    """Return the checksum of a vocabulary.

    Raises:
      UserError: there is no such file.
    """
    return build_info.file_checksum(path)


def number(path: str) -> int:
    """Return a checksum of the words of a vocabulary that fits into an int64.

    Raises:
      UserError: it cannot be read.
    """
    words = "\n".join(text_processing.read_words(path)).encode("utf-8")
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big", signed=True)


def is_of(path: str, recorded: str) -> bool:
    """Say whether a checksum is that of a vocabulary, whatever its line ends are.

    Raises:
      UserError: there is no such file.
    """
    return recorded in _checksums(path)


def _checksums(path) -> Set[str]:
    with open(files.require_file(path, files.MAX_TEXT), "rb") as file:
        content = file.read()
    lines = content.replace(b"\r\n", b"\n")
    if lines.endswith(b"\n"):
        lines = lines[:-1]
    forms = [lines + b"\n"]
    if not lines.endswith(b"\n"):  # its last word is not empty
        forms.append(lines)
    forms += [form.replace(b"\n", b"\r\n") for form in forms]
    return {hashlib.sha256(form).hexdigest() for form in [content, *forms]}


def are_same(one: str, other: str) -> bool:
    """Say whether two files are the same vocabulary, whatever their line ends are.

    Raises:
      UserError: there is no such file.
    """
    return is_of(one, checksum(other))


# --- Samples


def of_samples(folder: str) -> Optional[str]:
    """Return the checksum that samples carry; None: they carry none.

    Raises:
      UserError: their record is damaged.
    """
    info = build_info.read(folder)
    return (info or {}).get("vocabulary")


def check_samples(folder: str, vocabulary: str) -> None:
    """Refuse samples whose ids are of other words.

    Args:
      folder: where they lie.
      vocabulary: path of the words that they are to be read with.

    Raises:
      UserError: they are of another vocabulary.
    """
    recorded = of_samples(folder)
    if recorded and not is_of(vocabulary, recorded):
        raise UserError(
            f"the samples in {folder} were built with another vocabulary than "
            f"{vocabulary}, their ids are other words: put theirs back, or delete the "
            "folder and build them again"
        )


# --- Word vectors


def table_record(path: str) -> str:
    """Return the path of the record about a table of word vectors."""
    return os.path.splitext(path)[0] + ".json"


def write_table_record(path: str, vocabulary: str) -> None:
    """Write down of which vocabulary the rows of a table are.

    Args:
      path: of the table, which is there.
      vocabulary: path of its words.

    Raises:
      UserError: it cannot be written.
    """
    about = {
        "vocabulary": checksum(vocabulary),
        "table": build_info.file_checksum(path),
    }
    files.write_json(table_record(path), about)


def check_table(path: str, vocabulary: str) -> None:
    """Refuse a table of word vectors whose rows are of other words.

    Args:
      path: of the table; a record about another file that was there counts as none.
      vocabulary: path of the words.

    Raises:
      UserError: it is of another vocabulary.
    """
    record = table_record(path)
    if not os.path.exists(record):
        return
    about = files.read_json(record)
    if not isinstance(about, dict) or not about.get("vocabulary"):
        raise UserError(f"{record} is damaged: make {path} again with util.glove")
    is_about_it = about.get("table") == build_info.file_checksum(path)
    if is_about_it and not is_of(vocabulary, about["vocabulary"]):
        raise UserError(
            f"the word vectors {path} are those of another vocabulary than "
            f"{vocabulary}: make them again with python -m util.glove"
        )
