"""How well masks agree: intersection over union, and the scores of a data set."""

from typing import Any, Dict, Optional, Tuple

import numpy as np

# Masks of the network, those that DenseCRF refined, and those of the score that the
# network itself refines, where it does.
WITHOUT_CRF, WITH_CRF, BASE = "without_crf", "with_crf", "base"
# What they are called where people read it, and in the JSON of a test.
TITLES = {
    WITHOUT_CRF: "without DenseCRF",
    WITH_CRF: "with DenseCRF",
    BASE: "base score, without DenseCRF",
}

# Which IoU a figure is, for those who know it by another name.
TERMS = "overall IoU is also called oIoU or cIoU, mean IoU mIoU or gIoU"


def with_titles(values: Dict[str, Any]) -> Dict[str, Any]:
    """Return a dict whose keys of TITLES are replaced by the titles, for JSON."""
    return {TITLES.get(key, key): value for key, value in values.items()}


def without_titles(values: Dict[str, Any]) -> Dict[str, Any]:
    """Undo `with_titles`."""
    keys = {title: key for key, title in TITLES.items()}
    return {keys.get(key, key): value for key, value in values.items()}


def compute_mask_IU(masks: np.ndarray, target: np.ndarray) -> Tuple[int, int]:
    """Count the pixels of the intersection and of the union of two masks.

    Args:
      masks: any dtype and shape; not 0 is on the object.
      target: the same shape.

    Returns:
      (intersection, union) in pixels.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> compute_mask_IU([[0, 1, 1]], [[0, 0, 1]])
      (1, 2)
    """
    masks, target = np.asarray(masks) != 0, np.asarray(target) != 0
    if masks.shape != target.shape:
        raise ValueError(f"masks of different shapes: {masks.shape} and {target.shape}")
    intersection, union = masks & target, masks | target
    return int(np.count_nonzero(intersection)), int(np.count_nonzero(union))


def counted(mask: np.ndarray, empty_below: int) -> np.ndarray:
    """Return a predicted mask as it counts: one of few pixels is an empty one.

    Args:
      mask: bool [H, W].
      empty_below: pixels; a mask of fewer says that nothing is meant.

    Example:
      >>> counted(np.array([[True, False]]), 2)
      array([[False, False]])
    """
    return mask if np.count_nonzero(mask) >= empty_below else np.zeros_like(mask)


class Scores:
    """The scores of a data set, gathered sample by sample.

    A sample whose mask and prediction are both empty is right: its IoU is 1. It
    adds nothing to the overall IoU. So the mean IoU is also gIoU, the overall IoU
    cIoU of gRefCOCO (GRES, CVPR 2023), where some sentences have no target.

    Example:
      >>> scores = Scores()
      >>> scores.add(*compute_mask_IU([0, 1, 1], [0, 0, 1]))
      >>> scores.add(intersection=9, union=10)
      >>> scores.mean_iou, scores.precision(0.9)
      (0.7, 0.5)
    """

    THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
    TARGET_THRESHOLDS = (0.7, 0.8, 0.9)  # of gRefCOCO

    def __init__(self):
        self._intersections = []
        self._unions = []
        self._areas = []

    def add(self, intersection: int, union: int, area: Optional[int] = None) -> None:
        """Count one sample, as `compute_mask_IU` measured it.

        Args:
          intersection, union: in pixels.
          area: of the true mask, in pixels; 0: the sentence has no target; None: it
            has one.
        """
        self._intersections.append(int(intersection))
        self._unions.append(int(union))
        self._areas.append(max(1, int(intersection)) if area is None else int(area))

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self._unions)

    @property
    def num_empty(self) -> int:
        """Number of samples where both mask and prediction are empty."""
        return self._unions.count(0)

    @property
    def num_no_target(self) -> int:
        """Number of samples whose sentence has no target."""
        return self._areas.count(0)

    @property
    def no_target_accuracy(self) -> Optional[float]:
        """N-acc: share, 0..1, of an empty prediction among these; None: no such."""
        return _share(np.array(self._unions)[~self._has_target()] == 0)

    @property
    def target_accuracy(self) -> Optional[float]:
        """T-acc: share, 0..1, of predictions not empty among the others; None: none."""
        predicted = np.array(self._unions) + self._intersections - self._areas
        return _share(predicted[self._has_target()] > 0)

    def target_precision(self, threshold: float) -> Optional[float]:
        """Compute the precision over the sentences with a target; None: none."""
        return _share(self.ious()[self._has_target()] >= threshold)

    def _has_target(self):
        self._require_samples()
        return np.array(self._areas) > 0

    @property
    def overall_iou(self) -> float:
        """All intersections over all unions, 0..1: large objects weigh more."""
        self._require_samples()
        union = sum(self._unions)
        return sum(self._intersections) / union if union else 1.0

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the samples, 0..1."""
        return float(np.mean(self.ious()))

    def precision(self, threshold: float) -> float:
        """Compute the share of samples, 0..1, with an IoU of at least `threshold`."""
        return float(np.mean(self.ious() >= threshold))

    def as_dict(self) -> Dict[str, float]:
        """Return all scores by name, as JSON can hold them."""
        scores = {
            f"precision@{threshold}": self.precision(threshold)
            for threshold in self.THRESHOLDS
        }
        scores.update(
            overall_iou=self.overall_iou,
            mean_iou=self.mean_iou,
            count=self.count,
            num_empty=self.num_empty,
        )
        if self.num_no_target:
            scores.update(
                num_no_target=self.num_no_target,
                no_target_accuracy=self.no_target_accuracy,
                target_accuracy=self.target_accuracy,
            )
            for threshold in self.TARGET_THRESHOLDS:
                name = f"target_precision@{threshold}"
                scores[name] = self.target_precision(threshold)
        return scores

    def ious(self) -> np.ndarray:
        """Return the IoU of each sample, float64 [count], 0..1, in order of `add`."""
        self._require_samples()
        intersections, unions = np.array(self._intersections), np.array(self._unions)
        return np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))

    def _require_samples(self) -> None:
        if not self.count:
            raise ValueError("no scores: no sample was added")


def _share(is_right: np.ndarray) -> Optional[float]:
    return float(np.mean(is_right)) if len(is_right) else None


def report(scores: Scores, kind: str, empty_below: int = 0) -> str:
    """Write a block of the results that end a test.

    Args:
      scores: at least one sample.
      kind: one of TITLES.
      empty_below: see `counted`.

    Returns:
      Lines without a line break at the end; their form is fixed, people grep it.
    """
    overall = "overall base IoU" if kind == BASE else "overall IoU"
    lines = [f"Segmentation evaluation ({TITLES[kind]}):"]
    lines += [
        f"precision@{threshold} = {scores.precision(threshold):.4f}"
        for threshold in scores.THRESHOLDS
    ]
    lines.append(
        f"{overall} = {scores.overall_iou:.4f}; mean IoU = {scores.mean_iou:.4f}"
    )
    if scores.num_empty:
        lines.append(
            f"{scores.num_empty} of {scores.count} samples had an empty mask and an "
            "empty prediction: counted as IoU 1"
        )
    if empty_below:
        lines.append(f"masks of fewer than {empty_below} pixels counted as empty ones")
    return "\n".join(lines)


def report_with_no_targets(scores: Scores, kind: str, empty_below: int) -> str:
    """Write the block of a split in which some sentences have no target.

    Args:
      scores: at least one sample.
      kind: one of TITLES.
      empty_below: see `counted`.

    Returns:
      Lines as those of `report`, with the figures of gRefCOCO.
    """

    def figure(value):
        return "none" if value is None else f"{value:.4f}"

    lines = [f"Segmentation evaluation ({TITLES[kind]}):"]
    lines += [
        f"precision@{threshold} = {figure(scores.target_precision(threshold))}"
        for threshold in scores.TARGET_THRESHOLDS
    ]
    lines.append(
        f"N-acc = {figure(scores.no_target_accuracy)}; "
        f"T-acc = {figure(scores.target_accuracy)}"
    )
    lines.append(
        f"gIoU = mean IoU = {scores.mean_iou:.4f}; "
        f"cIoU = overall IoU = {scores.overall_iou:.4f}"
    )
    lines.append(
        f"{scores.num_no_target} of {scores.count} sentences have no target, and "
        f"precision is that of the others; a mask of fewer than {max(1, empty_below)} "
        f"pixels says that nothing is meant (--empty-below {empty_below})"
    )
    return "\n".join(lines)
