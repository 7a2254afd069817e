"""Where people keep COCO's images, and under which of their two names.

The images of 2017 are those of 2014 with shorter names; those of train2014 lie in
train2017 and val2017.
"""

import os
import re
from typing import Iterator, Sequence

# Below the data folder; what comes first is preferred.
FOLDERS = (
    "coco/images/train2014",
    "images/mscoco/images/train2014",
    "images/train2014",
    "coco/train2014",
)
NAME_OF_2014 = re.compile(r"COCO_(?:train|val)2014_([0-9]{12}\.jpg)")


def find(paths: Sequence[str]) -> str:
    """Return the path of an image that is there.

    Args:
      paths: where it may be; a name of 2014 stands for those of 2017 as well, in the
        same folder and in train2017 and val2017 next to it.

    Returns:
      The first file that is there; the first of `paths` if none is.

    Example:
      >>> find(["coco/images/train2014/COCO_train2014_000000000009.jpg"])
      'coco/images/train2014/COCO_train2014_000000000009.jpg'
    """
    there = (path for place in paths for path in _names(place) if os.path.isfile(path))
    return next(there, paths[0])


def _names(path: str) -> Iterator[str]:
    """Yield the paths that an image of COCO may have in the place of one."""
    yield path
    folder, name = os.path.split(path)
    match = NAME_OF_2014.fullmatch(name)
    if match:
        parent, short = os.path.dirname(folder), match.group(1)
        yield os.path.join(folder, short)
        yield os.path.join(parent, "train2017", short)
        yield os.path.join(parent, "val2017", short)
