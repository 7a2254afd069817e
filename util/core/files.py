"""Files that appear whole or not at all; JSON files."""

import collections
import contextlib
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
from typing import IO, Any, Iterator, Optional, Union

from util.core.errors import UserError

MAX_TEXT, MAX_JSON = 2**28, 2**30  # bytes of a file; COCO's largest have 0.5 GB
MAX_DIGITS = 100  # of a whole number: Python takes very long for a million
PART = re.compile(r".+\.([0-9]+)\.part", re.DOTALL)  # name of a file before it is whole

LOCK = ".lock"  # in a folder where a process writes; holds its pid and its machine

FORGOTTEN_S = 3600  # age of a file before it is whole that nobody can still be writing


@contextlib.contextmanager
def whole_file(path: str, mode: str = "wb", durable: bool = False) -> Iterator[IO]:
    """Write a file next to its place and rename it when it is complete.

    Args:
      path: the file to make or replace; its folder is made where missing. A device
        or a pipe is written to as it is.
      mode: "wb", or "w" for UTF-8 text.
      durable: it survives a power cut: it is on the disk before it has its name.

    Yields:
      The open file. After an exception nothing is left of it and an older file
      at `path` is untouched.
    """
    encoding = None if "b" in mode else "utf-8"
    if _is_special(path):
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
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


def _is_special(path):
    """Tell whether something is there that is neither a file nor a folder."""
    with contextlib.suppress(OSError, ValueError):
        kind = os.stat(path).st_mode
        return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))
    return False


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
      The path of the folder to fill. After an exception nothing is left of it; what a
      process that was killed left goes an hour later.

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
        _remove_part_folders(path)
        yield part
        os.rename(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_part_folders(path):
    """Remove what was left of a `whole_folder` of this path long ago."""
    parent, start = os.path.split(path)
    for name in os.listdir(parent):
        part = PART.fullmatch(name)
        if part and name == f"{start}.{part.group(1)}.part":
            folder = os.path.join(parent, name)
            if _is_forgotten(folder) and not _is_alive(int(part.group(1))):
                shutil.rmtree(folder, ignore_errors=True)


def _is_forgotten(path):
    return time.time() - os.path.getmtime(path) > FORGOTTEN_S


@contextlib.contextmanager
def locked(folder: str, waits: bool = False) -> Iterator[bool]:
    """Be the only one that writes in a folder; a process that dies unlocks it.

    The lock is the system's, on the file LOCK: whatever number or machine an old one
    names, it counts only while its process lives. Where the file system has no locks
    that is said, and nobody is kept out.

    Args:
      folder: made where missing, and removed again where nothing came of it.
      waits: for the end of another process there, rather than to refuse.

    Yields:
      Whether a process was killed there before.

    Raises:
      UserError: another process is at work there, or the folder cannot be made.
    """
    made = _missing(os.path.abspath(folder))
    path = os.path.join(folder, LOCK)
    try:
        os.makedirs(folder, exist_ok=True)
        file, is_left = _lock(path, folder, waits)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        yield is_left
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)
        file.close()
        with contextlib.suppress(OSError):  # there is something in it
            for each in made:
                os.rmdir(each)


def _missing(folder):
    """Return the folders that makedirs would make, the innermost first."""
    missing = []
    while not os.path.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _lock(path, folder, waits):
    """Return the open file of a lock that is ours, and whether an old one was there."""
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            _acquire(file, waits)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                holder = " ".join(file.read(100).split()) or "unknown"
            raise UserError(
                f"another process writes in {folder} (pid {holder}): wait for its end "
                "or choose another folder"
            ) from error
        except (ImportError, OSError):
            print(
                f"warning: no locks in {folder}: see to it that nothing else writes "
                "there",
                file=sys.stderr,
            )
            return file, False
        # Who held it may have removed it between the two calls.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                is_left = os.fstat(file.fileno()).st_size > 0
                file.truncate(0)
                file.write(f"{os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file, is_left
        file.close()


def _acquire(file, waits):
    import fcntl  # not on Windows

    fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))


def remove_parts(folder: str, is_shared: bool = False) -> None:
    """Remove what processes that were killed left of a `whole_file`, nothing else.

    Args:
      folder: may be missing.
      is_shared: processes of other machines, whose numbers say nothing here, may be
        writing there: what is young stays.
    """
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        part, path = PART.fullmatch(name), os.path.join(folder, name)
        if part and os.path.isfile(path) and not _is_alive(int(part.group(1))):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if not is_shared or _is_forgotten(path):
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


def require_file(path: str, most: Optional[int] = None) -> str:
    """Return `path`, the path of a file that is there.

    Args:
      path: the file.
      most: bytes that it may have, of one that is read whole; None: any number.

    Raises:
      UserError: it is not, or is too large.
    """
    if not os.path.isfile(path):
        raise UserError(missing(path))
    size = os.path.getsize(path)
    if most is not None and size > most:
        raise UserError(f"{path} has {size} bytes, more than the {most} that are read")
    return path


def missing(path: str) -> str:
    """Return what to say of a file that is not there."""
    return f"there is no file {path}; data/README.md says where the data comes from"


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
      UserError: the file is missing, too large or damaged, or an object in it has a
        key twice.
    """
    text = read_json_text(path)
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def read_json_text(path: str) -> str:
    """Return the text of a JSON file, without the mark of its encoding.

    Raises:
      UserError: the file is missing or no text.
    """
    with open(require_file(path, MAX_JSON), "rb") as file:
        content = file.read()
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; a key twice in an object is an error.

    Python's own reader would keep the last of the two and say nothing.

    Raises:
      ValueError: it is no JSON, an object has a key twice, or see `integer`.
      RecursionError: it is nested deeply.

    Example:
      >>> parse_json('{"left": 1, "left": 2}')
      Traceback (most recent call last):
      ...
      ValueError: the key 'left' stands twice in an object, and only one can count
    """
    return json.loads(text, object_pairs_hook=_object, parse_int=integer)


def integer(text: Union[str, bytes]) -> int:
    """Return a whole number of at most MAX_DIGITS.

    Raises:
      ValueError: it has more, or is none.
    """
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, more than {MAX_DIGITS}")
    return int(text)


def _object(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        twice = next(key for key, _ in pairs if counts[key] > 1)
        raise ValueError(
            f"the key {twice!r} stands twice in an object, and only one can count"
        )
    return made
