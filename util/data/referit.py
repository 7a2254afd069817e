"""The annotations of ReferIt."""

import re
from typing import Dict, List, Optional

from util.core.errors import Mistakes, UserError, gathering
from util.core.files import read_json
from util.data.datasets import Dataset
from util.data.referent import Referent


def referents(dataset: Dataset, split: str, mistakes: Mistakes) -> List[Referent]:
    """Return the referents of a split, see `annotations.referents`."""
    path = dataset.annotation_file(split)
    return [
        Referent(
            f"{path}: referent {name}",
            dataset.image_file(name.split("_")[0]),
            sentences,
            mask_file=dataset.mask_file(name),
        )
        for name, sentences in load_queries(path, mistakes).items()
    ]


def load_queries(
    path: str, mistakes: Optional[Mistakes] = None
) -> Dict[str, List[str]]:
    """Read the sentences of a ReferIt query file.

    Args:
      path: the file.
      mistakes: see `annotations.referents`.

    Returns:
      "<image>_<object>", two numbers -> texts, in file order.

    Raises:
      UserError: the file is missing, damaged or of another form.
    """
    queries = read_json(path)
    if not isinstance(queries, dict):
        raise UserError(f"{path} does not hold queries")
    with gathering(mistakes) as gathered:
        sound = {}
        for name, sentences in queries.items():
            with gathered.gathered():
                _check(path, name, sentences)
                sound[name] = sentences
    return sound


def _check(path, name, sentences):
    # The names become paths of files.
    is_name = re.fullmatch("[0-9]+_[0-9]+", name)
    is_list = isinstance(sentences, list)
    if not is_name or not is_list or not all(isinstance(s, str) for s in sentences):
        raise UserError(
            f"{path}: {name!r} is not <image>_<object> with a list of sentences"
        )
