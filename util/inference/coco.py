"""The ids that images have in COCO's files of results."""

import os
import re
from typing import Dict, NamedTuple, Optional, Sequence

from util.core import files
from util.core.errors import UserError

# COCO's own names say an id: COCO_train2014_000000000009.jpg, 000000000009.jpg.
OWN_NAME = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?([0-9]{12})")


class Ids(NamedTuple):
    """The ids of images.

    Attributes:
      of: path of an image -> its id.
      source: where they come from, to be printed.
    """

    of: Dict[str, int]
    source: str


def image_ids(paths: Sequence[str], truth: Optional[str] = None) -> Ids:
    """Return the ids of images: from a ground truth, from their names, or invented.

    Args:
      paths: of the images.
      truth: path of a COCO file that lists them; None: COCO's own names say ids, and
        where not all images have such a name all are numbered from 1.

    Raises:
      UserError: the file cannot be read, or does not list each image once.
    """
    paths = list(dict.fromkeys(paths))
    if truth is not None:
        return Ids(_listed(paths, truth), f"those of {truth}")
    names = [OWN_NAME.fullmatch(os.path.splitext(_name(path))[0]) for path in paths]
    ids = [int(name.group(1)) for name in names if name]
    if len(ids) == len(set(ids)) == len(paths):
        return Ids(dict(zip(paths, ids)), "from the images' names, which are COCO's")
    return Ids(
        {path: number for number, path in enumerate(paths, 1)},
        "invented, from 1 in the order of the images: --coco-images FILE takes those "
        "of a ground truth",
    )


def _name(path):
    return os.path.basename(path)


def _listed(paths, truth):
    """Return path -> the id of the entry whose file_name is the end of the path."""
    known = _read(truth)
    ids = {path: _find(path, known, truth) for path in paths}
    owners = {}
    for path, number in ids.items():
        other = owners.setdefault(number, path)
        if other != path:
            raise UserError(
                f"{other} and {path} are both image {number} of {truth}: give each "
                "image once, by paths that end as its file_name does"
            )
    return ids


def _read(truth):
    """Return file_name -> the ids that entries of this name have."""
    content, known = files.read_json(truth), {}
    try:
        for entry in content["images"]:
            number, name = entry["id"], os.path.normpath(entry["file_name"])
            if isinstance(number, bool) or not isinstance(number, int):
                raise ValueError(f"the id {number!r} of {name} is no whole number")
            known.setdefault(name, set()).add(number)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{truth} is not a COCO file with id and file_name of images: {error!r}"
        ) from error
    return known


def _find(path, known, truth):
    parts = os.path.abspath(path).split(os.sep)
    for first in range(len(parts)):  # the longest end that is a name
        ids = known.get(os.sep.join(parts[first:]), ())
        if len(ids) > 1:
            raise UserError(
                f"{truth} has {len(ids)} ids for {path}: file_name must tell them apart"
            )
        if ids:
            return next(iter(ids))
    raise UserError(f"{truth} lists no image {_name(path)} ({path})")
