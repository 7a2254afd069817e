"""The files that samples were built from, in a record next to the samples.

These are the images, and ReferIt's masks; annotations and masks that are images are
in `build_info`. A file counts by its content, so that folders can be moved and copied,
and it is read again only where its size or its time differs, or all of them lie in
another folder. Samples of the reference, and those built before there was a record,
have none and are taken as they are.
"""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Sequence

from util.core import files
from util.core.errors import UserError
from util.data import build_info
from util.data.datasets import Dataset
from util.data.referent import Referent

FILE = "sources.json"
NAMED = 3  # files in a message


def write(
    folder: str, dataset: Dataset, referents: Sequence[Referent], jobs: int = 1
) -> None:
    """Write down the files of samples that are going to be built.

    Args:
      folder: where the samples will lie; what its record says of other files stays.
      dataset: whose they are.
      referents: what they are built from; all files are there.
      jobs: number of threads that read the files.

    Raises:
      UserError: a file cannot be read, or the record is damaged or not be written.
    """
    paths = _paths(dataset, referents)
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(paths, pool.map(_look_at, paths.values())))
    _write(folder, dataset, dict(_known(folder, dataset), **found))


def check(folder: str, dataset: Dataset, referents: Sequence[Referent]) -> None:
    """Refuse samples that were built from other files than those that are there now.

    Files that are gone, or not in the record, say nothing against the samples. Where
    all are the same in another place or with other times, the record learns it.

    Args:
      folder: where the samples lie.
      dataset: whose they are.
      referents: what they were built from.

    Raises:
      UserError: files differ, or the record is damaged; names them.
    """
    known = _known(folder, dataset)
    found, others = {}, []
    for name, path in _paths(dataset, referents).items():
        if name in known and os.path.isfile(path):
            found[name] = _look_again(path, known[name])
            if found[name][::2] != known[name][::2]:  # size and checksum
                others.append(name)
    if others:
        raise UserError(
            f"{folder} was built with other images: {_some(others)} in "
            f"{_root(dataset)}: delete the folder to build anew"
        )
    if any(known[name] != one for name, one in found.items()):
        with contextlib.suppress(UserError):  # samples may lie where nobody may write
            _write(folder, dataset, dict(known, **found))


def copy(source: str, target: str) -> None:
    """Give a folder the record of another one, or none where that has none.

    Raises:
      UserError: the record is damaged or cannot be written.
    """
    record = _read(source)
    if record is not None:
        files.write_json(os.path.join(target, FILE), record)
    else:
        remove(target)


def remove(folder: str) -> None:
    """Remove the record of a folder."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, FILE))


def _root(dataset: Dataset) -> str:
    return os.path.realpath(dataset.images or dataset.root)


def _paths(dataset, referents) -> Dict[str, str]:
    """Return name in the record -> path of all files, each once."""
    root, paths = dataset.images or dataset.root, {}
    for referent in referents:
        for path in (referent.image, referent.mask_file):
            if path and referent.sentences:
                paths[os.path.relpath(path, root).replace(os.sep, "/")] = path
    return paths


def _look_at(path: str) -> List[Any]:
    """Return [size in bytes, time of the last change in ns, checksum] of a file."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, build_info.file_checksum(path)]


def _look_again(path: str, before: List[Any]) -> List[Any]:
    """Return the same of a file of which something is known; reads it if it must."""
    status = os.stat(path)
    if status.st_size != before[0]:
        return [status.st_size, status.st_mtime_ns, None]
    return before if status.st_mtime_ns == before[1] else _look_at(path)


def _some(names: List[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _write(folder: str, dataset: Dataset, found: Dict[str, List]) -> None:
    record = {"folder": _root(dataset), "files": found}
    files.write_json(os.path.join(folder, FILE), record)


def _known(folder: str, dataset: Dataset) -> Dict[str, List]:
    """Return what the record says of each file, without times that say nothing."""
    record = _read(folder)
    if record is None:
        return {}
    if record["folder"] == _root(dataset):
        return record["files"]
    return {
        name: [size, None, sum_] for name, (size, _, sum_) in record["files"].items()
    }


def _read(folder: str) -> Optional[Dict[str, Any]]:
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return None
    record = files.read_json(path)
    try:
        if not all(len(one) == 3 for one in record["files"].values()):
            raise ValueError("a file has no size, time and checksum")
        os.fspath(record["folder"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}): delete the folder to build anew"
        ) from error
    return record
