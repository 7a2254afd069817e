"""The annotations of any data set."""

from typing import (
    List,
)

from util.data import custom, datasets, refcoco, referit
from util.data.referent import Referent


def referents(dataset: str, split: str, root: str = "data") -> List[Referent]:
    """Read the annotations of a split.

    Args:
      dataset: its name, see `datasets.get`.
      split: one of its splits.
      root: the data folder.

    Returns:
      The split's referents in file order.

    Raises:
      UserError: unknown split; an annotation file is missing or damaged.
    """
    datasets.check_split(dataset, split, root)
    about = datasets.get(dataset, root)
    if about.annotations:
        return custom.referents(about, split)
    if about.refs is None:
        return referit.referents(split, root)
    return refcoco.referents(dataset, split, root)
