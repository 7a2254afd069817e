"""What training prints. People grep these lines: their form is fixed."""

import time
from typing import Dict, List, Optional, Tuple

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


def peak_memory_mb() -> float:
    """Return the most memory that this process has held, in 10^6 bytes."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Progress:
    """Averages over the steps.

    Averages begin at 0 and decay by AVERAGE_DECAY a step, as in published logs: they
    are too small in the first few hundred steps.

    Args:
      averages: what `averages` returned in a run that this one goes on with.
    """

    def __init__(self, averages: Optional[Dict[str, float]] = None) -> None:
        self._averages = dict(averages or dict.fromkeys(_KEYS, 0.0))
        self._now: Dict[str, float] = {}
        self._waiting: List[Tuple] = []
        self._since, self._steps = time.time(), 0

    def add(self, loss: float, scores: np.ndarray, target: np.ndarray) -> None:
        """Note one step; `scores` and `target` as in `accuracies`.

        Costs nothing: the counting is done when figures are asked for.
        """
        self._waiting.append((loss, scores, target))
        self._steps += 1

    def averages(self) -> Dict[str, float]:
        """Return the averages up to now, by name."""
        for loss, scores, target in self._waiting:
            shares = map(float, accuracies(scores, target))
            self._now = dict(zip(_KEYS, [float(loss), *shares]))
            for key, value in self._now.items():
                change = value - self._averages[key]
                self._averages[key] += (1 - AVERAGE_DECAY) * change
        self._waiting = []
        return dict(self._averages)

    def figures(self) -> Dict[str, float]:
        """Return the figures of the last step, the averages and the time.

        Returns:
          loss, accuracy_all, accuracy_pos, accuracy_neg; the same with _avg;
          seconds_a_step since the last call.
        """
        averages = self.averages()
        seconds = (time.time() - self._since) / self._steps
        self._since, self._steps = time.time(), 0
        named = {key + "_avg": value for key, value in averages.items()}
        return dict(self._now, seconds_a_step=seconds, **named)


def lines(step: int, figures: Dict[str, float], learning_rate: float) -> str:
    """Return what is printed of a step, from `Progress.figures`."""
    shares = (
        "{accuracy_all%s:.4f} (all), {accuracy_pos%s:.4f} (pos), "
        "{accuracy_neg%s:.4f} (neg)"
    )
    return "\n".join(
        f"iter = {step}, {text.format(lr=learning_rate, **figures)}"
        for text in (
            "loss (cur) = {loss:.4f}, loss (avg) = {loss_avg:.4f}, lr = {lr:.8f}",
            "accuracy (cur) = " + shares % ("", "", ""),
            "accuracy (avg) = " + shares % ("_avg", "_avg", "_avg"),
            "time = {seconds_a_step:.4f} s a step",
        )
    )


_KEYS = ("loss", "accuracy_all", "accuracy_pos", "accuracy_neg")
