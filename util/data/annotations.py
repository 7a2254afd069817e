"""The annotations of any data set."""

from typing import List

from util.data import custom, refcoco, referit
from util.data.datasets import Dataset
from util.data.referent import Referent


def referents(dataset: Dataset, split: str) -> List[Referent]:
    """Read the annotations of a split.

    Args:
      dataset: see `datasets.get`.
      split: one of its splits.

    Returns:
      The split's referents in file order.

    Raises:
      UserError: unknown split; an annotation file is missing or damaged.
    """
    dataset.check_split(split)
    if dataset.is_custom:
        read = custom.referents
    elif dataset.refs is None:
        read = referit.referents
    else:
        read = refcoco.referents
    return read(dataset, split)
