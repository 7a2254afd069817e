"""Files that appear whole or not at all; JSON files."""

import contextlib
import json
import os
import re
import shutil
from typing import IO, Any, Iterator

from util.core.errors import UserError

PART = re.compile(r".+\.([0-9]+)\.part", re.DOTALL)  # name of a file before it is whole


@contextlib.contextmanager
def whole_file(path: str, mode: str = "wb", durable: bool = False) -> Iterator[IO]:
    """Write a file next to its place and rename it when it is complete.

    Args:
      path: the file to make or replace; its folder is made where missing.
      mode: "wb", or "w" for UTF-8 text.
      durable: it survives a power cut: it is on the disk before it has its name.

    Yields:
      The open file. After an exception nothing is left of it and an older file
      at `path` is untouched.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(part, mode, encoding=encoding) as file:
            yield file
            if durable:
                flush(file)
        os.replace(part, path)
        if durable:
            flush_folder(os.path.dirname(path) or ".")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def flush(file: IO) -> None:
    """Bring what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: str) -> None:
    """Bring the names in a folder to the disk, where its file system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def writing(path: str, mode: str = "wb", durable: bool = False) -> Iterator[IO]:
    """Open a `whole_file`; a full disk or a refused folder is a UserError."""
    try:
        with whole_file(path, mode, durable) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """Fill a new folder next to its place and rename it when it is complete.

    Args:
      path: the folder to make; those above it are made where missing.

    Yields:
      The path of the folder to fill. After an exception nothing is left of it.

    Raises:
      UserError: at `path` is more than an empty folder, or it cannot be written.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path) or os.path.isdir(path) and os.listdir(path):
        raise UserError(f"{path} is there already: choose another --output")
    part = f"{path}.{os.getpid()}.part"
    try:
        if os.path.isdir(part):  # killed in a container, where numbers come again
            shutil.rmtree(part)
        os.makedirs(part)
        yield part
        os.rename(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: str) -> None:
    """Remove what processes that were killed left of a `whole_file`, nothing else."""
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        part, path = PART.fullmatch(name), os.path.join(folder, name)
        if part and os.path.isfile(path) and not _is_alive(int(part.group(1))):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.remove(path)


def _is_alive(process):
    """Tell whether there is a process of this number, other than this one."""
    if process == os.getpid():
        return False  # the file is older: one of a container that had the same number
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def require_file(path: str) -> str:
    """Return `path`, the path of a file that is there.

    Raises:
      UserError: it is not.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"there is no file {path}; data/README.md says where the data comes from"
        )
    return path


def write_json(path: str, value: Any) -> None:
    """Write a JSON file, whole or not at all, and to the disk.

    Args:
      path: the file to make or replace.
      value: what JSON can hold.

    Raises:
      UserError: the file cannot be written.
    """
    with writing(path, durable=True) as file:
        file.write(json.dumps(value, indent=2).encode("ascii") + b"\n")


def read_json(path: str) -> Any:
    """Read a JSON file, of any of Unicode's encodings, with or without its mark.

    Raises:
      UserError: the file is missing or damaged, or an object in it has a key twice.
    """
    with open(require_file(path), "rb") as file:
        content = file.read()
        try:
            return parse_json(content.decode(json.detect_encoding(content)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from error


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; a key twice in an object is an error.

    Python's own reader would keep the last of the two and say nothing.

    Raises:
      ValueError: it is no JSON, or an object has a key twice.

    Example:
      >>> parse_json('{"left": 1, "left": 2}')
      Traceback (most recent call last):
      ...
      ValueError: the key 'left' stands twice in an object, and only one can count
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(
            f"the key {twice!r} stands twice in an object, and only one can count"
        )
    return made
