"""How sure the IoU of a test is: what other images of the same kind would have given.

The bootstrap of Efron (The Annals of Statistics, 1979), over images and not over
sentences: those of an image are alike. Images are drawn with replacement, as many as
there are, and the figures computed of all sentences of the drawn ones.
"""

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from util.evaluation import breakdown
from util.evaluation.breakdown import Row
from util.evaluation.eval_tools import TITLES

NAMES = {"overall_iou": "oIoU", "mean_iou": "mIoU"}  # and what the field calls them
PERCENT, DRAWS, SEED = 95, 1000, 0
LEAST_IMAGES = 20  # of fewer the interval is too narrow

Interval = Tuple[float, float]


def summary(rows: Sequence[Row]) -> Optional[Dict[str, Any]]:
    """Return the intervals of a test and how they were found, for its record.

    Args:
      rows: of a record's samples.

    Returns:
      percent, draws, seed, images, and `intervals` of each kind of mask that the rows
      have; None where there are no intervals.
    """
    if not has_enough_images(rows):
        return None
    images = len({row["image"] for row in rows})
    about = {"percent": PERCENT, "draws": DRAWS, "seed": SEED, "images": images}
    return dict(about, **{k: intervals(rows, k) for k in TITLES if k in rows[0]})


def title(images: int) -> str:
    """Say what intervals these are.

    Example:
      >>> title(1500)
      '95 % interval (bootstrap over 1500 images, 1000 draws, seed 0)'
    """
    return (
        f"{PERCENT} % interval (bootstrap over {images} images, {DRAWS} draws, "
        f"seed {SEED})"
    )


def describe(found: Dict[str, Any]) -> str:
    """Write what `summary` returned, a line for each kind of mask."""
    lines = [f"{title(found['images'])}:"]
    for kind in TITLES:
        if kind in found:
            ends = (
                f"{NAMES[name]} {low:.4f} to {high:.4f}"
                for name, (low, high) in found[kind].items()
            )
            lines.append(f"{TITLES[kind]}: {'; '.join(ends)}")
    return "\n".join(lines)


def intervals(rows: Sequence[Row], kind: str) -> Dict[str, Interval]:
    """Compute between which values most draws of the images lie.

    Args:
      rows: of a record's samples.
      kind: WITHOUT_CRF, WITH_CRF or BASE.

    Returns:
      Each of NAMES -> (low, high), 0..1, of the middle PERCENT of the draws.

    Example:
      >>> counts = {"without_crf": {"intersection": 1, "union": 2}, "area": 2}
      >>> rows = [dict(counts, image=f"{n}.jpg") for n in range(20)]
      >>> intervals(rows, "without_crf")["mean_iou"]
      (0.5, 0.5)
    """
    return _middle(_draw(_sums(rows, rows, kind)))


def differences(
    before: Sequence[Row], after: Sequence[Row], kind: str
) -> Dict[str, Interval]:
    """Compute between which values the difference of two tests lies.

    Both see the same draws, so that what makes an image easy or hard cancels out.

    Args:
      before, after: rows of two tests of the same sentences, see `breakdown.paired`.
      kind: WITHOUT_CRF, WITH_CRF or BASE, which both have.

    Returns:
      As `intervals`, of the figure after minus the one before, -1..1.
    """
    first, second = (_draw(_sums(before, rows, kind)) for rows in (before, after))
    return _middle(second - first)


def has_enough_images(rows: Sequence[Row]) -> bool:
    """Tell whether there are LEAST_IMAGES, all with names, so that intervals count.

    Samples that the reference made do not say which image they show.
    """
    images = {row["image"] for row in rows}
    return len(images) >= LEAST_IMAGES and "" not in images


def _sums(named, rows, kind):
    """Add up the sentences of each image; the same rows of `named` say which it is.

    Returns:
      float64 [images, 4]: pixels of intersections and of unions, IoUs, sentences.
    """
    numbers = {}
    places = [numbers.setdefault(row["image"], len(numbers)) for row in named]
    counts = [[row[kind]["intersection"], row[kind]["union"]] for row in rows]
    ious = breakdown.scores(rows, kind).ious()
    sums = np.zeros((len(numbers), 4))
    np.add.at(sums, places, np.column_stack([counts, ious, np.ones(len(rows))]))
    return sums


def _draw(sums):
    """Return the figures of each draw, float64 [DRAWS, NAMES], of `_sums`."""
    random, images = np.random.RandomState(SEED), len(sums)
    drawn = np.empty((DRAWS, sums.shape[1]))
    for draw in range(DRAWS):
        chosen = random.randint(images, size=images)
        drawn[draw] = np.bincount(chosen, minlength=images) @ sums
    intersections, unions, ious, sentences = drawn.T
    overall = np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))
    return np.column_stack([overall, ious / sentences])


def _middle(figures):
    """Return name -> (low, high) of the middle PERCENT of figures, [DRAWS, NAMES]."""
    rest = (100 - PERCENT) / 2
    ends = np.percentile(figures, [rest, 100 - rest], axis=0).T
    return {name: (float(low), float(high)) for name, (low, high) in zip(NAMES, ends)}
