"""Files that appear whole or not at all; JSON files."""

import contextlib
import glob
import json
import os
import shutil
from typing import IO, Any, Iterator

from util.core.errors import UserError


@contextlib.contextmanager
def whole_file(path: str, mode: str = "wb") -> Iterator[IO]:
    """Write a file next to its place and rename it when it is complete.

    Args:
      path: the file to make or replace; its folder is made where missing.
      mode: "wb", or "w" for UTF-8 text.

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
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


@contextlib.contextmanager
def writing(path: str, mode: str = "wb") -> Iterator[IO]:
    """Open a `whole_file`; a full disk or a refused folder is a UserError."""
    try:
        with whole_file(path, mode) as file:
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
        os.makedirs(part)
        yield part
        os.rename(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: str) -> None:
    """Remove what a process that was killed left of its `whole_file`."""
    for leftover in glob.glob(os.path.join(glob.escape(folder), "*.part")):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.remove(leftover)


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
    """Write a JSON file, whole or not at all.

    Args:
      path: the file to make or replace.
      value: what JSON can hold.

    Raises:
      UserError: the file cannot be written.
    """
    with writing(path) as file:
        file.write(json.dumps(value, indent=2).encode("ascii") + b"\n")


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
      UserError: the file is missing or damaged.
    """
    with open(require_file(path), encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
