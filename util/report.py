"""What training prints. People grep these lines: their form is fixed."""

import time
from typing import Dict, Tuple

import numpy as np

AVERAGE_DECAY = 0.99
EVERY = 100  # steps


def accuracies(scores: np.ndarray, target: np.ndarray) -> Tuple[float, float, float]:
    """Compute the shares of cells that are right.

    A cell is right where score >= 0 agrees with target != 0.

    Args:
      scores: float32 [B, H, W, 1], logits.
      target: float32 [B, H, W, 1], 0 off the object.

    Returns:
      The share among all cells, among those on the object (over their number plus
      one, as published logs have it) and among those off it; 0..1.
    """
    found, positive = scores >= 0, target != 0
    right = found == positive
    negative = ~positive
    return (
        float(right.mean()),
        float((right & positive).sum() / (positive.sum() + 1)),
        float((right & negative).sum() / max(1, negative.sum())),
    )


class Progress:
    """Averages over the steps and prints them now and then.

    Averages begin at 0 and decay by AVERAGE_DECAY a step, as in published logs: they
    are too small in the first few hundred steps.
    """

    def __init__(self) -> None:
        self._averages: Dict[str, float] = dict.fromkeys(["loss", *_SHARES], 0.0)
        self._since, self._steps = time.time(), []

    def add(self, loss: float, scores: np.ndarray, target: np.ndarray) -> None:
        """Note one step; `scores` and `target` as in `accuracies`.

        Costs nothing: `lines` does the counting.
        """
        self._steps.append((loss, scores, target))

    def lines(self, step: int, learning_rate: float) -> str:
        """Return the lines for `step` and begin to measure the time anew."""
        for loss, scores, target in self._steps:
            now = dict(zip(_SHARES, accuracies(scores, target)), loss=float(loss))
            self._average(now)
        average = self._averages
        seconds = (time.time() - self._since) / len(self._steps)
        self._since, self._steps = time.time(), []
        shares = "{all:.4f} (all), {pos:.4f} (pos), {neg:.4f} (neg)"
        return "\n".join(
            "iter = {}, {}".format(step, text)
            for text in (
                "loss (cur) = {:.4f}, loss (avg) = {:.4f}, lr = {:.8f}".format(
                    now["loss"], average["loss"], learning_rate
                ),
                "accuracy (cur) = " + shares.format(**now),
                "accuracy (avg) = " + shares.format(**average),
                "time = {:.4f} s a step".format(seconds),
            )
        )

    def _average(self, now):
        for key, value in now.items():
            self._averages[key] += (1 - AVERAGE_DECAY) * (value - self._averages[key])


_SHARES = ("all", "pos", "neg")
