"""The annotations of any data set."""

from typing import List, Optional

from util.core.errors import Mistakes, gathering
from util.data import custom, refcoco, referit
from util.data.datasets import Dataset
from util.data.referent import Referent


def referents(
    dataset: Dataset, split: str, mistakes: Optional[Mistakes] = None
) -> List[Referent]:
    """Read the annotations of a split.

    Args:
      dataset: see `datasets.get`.
      split: one of its splits.
      mistakes: takes the errors of wrong entries, which are left out; None: they are
        refused, all at once.

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
    with gathering(mistakes) as gathered:
        return read(dataset, split, gathered)
