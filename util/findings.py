"""What a finding says, as JSON can hold it."""

from typing import Any, Dict, List, Optional

import numpy as np
from pycocotools import mask as coco_mask

from util.inference import Finding


def describe(finding: Finding) -> Dict[str, Any]:
    """Describe a finding, all but its mask.

    Returns:
      sentence: as it was asked.
      area: pixels of the mask, at the picture's size.
      box: [left, top, width, height] around the mask, in pixels; None: it is empty.
      mean_probability: 0..1, of the pixels of the mask; None: it is empty.
      words: list of {"text", "known", "class", "weights"}, see `inference.Word`.
      num_unread: words after the 20th.
    """
    mask = finding.mask
    area = int(mask.sum())
    probability = float(finding.probability[mask].mean()) if area else None
    return {
        "sentence": finding.sentence,
        "area": area,
        "box": box(mask),
        "mean_probability": probability,
        "words": [
            {
                "text": word.text,
                "known": word.is_known,
                "class": word.kind,
                "weights": word.weights,
            }
            for word in finding.words
        ],
        "num_unread": finding.num_unread,
    }


def box(mask: np.ndarray) -> Optional[List[int]]:
    """Return [left, top, width, height] around a mask, in pixels; None: it is empty.

    Args:
      mask: bool [H, W].
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def run_lengths(mask: np.ndarray) -> Dict[str, Any]:
    """Pack a mask the way COCO's results have it.

    Args:
      mask: bool [H, W].

    Returns:
      {"size": [H, W], "counts": compressed run lengths}.
    """
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}
