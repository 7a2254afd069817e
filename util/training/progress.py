"""What training prints. People grep these lines: their form is fixed."""

import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from util.models import option_name

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
      averages: what `averages` returned in a run that this one resumes.
    """

    def __init__(self, averages: Optional[Dict[str, float]] = None) -> None:
        self._averages = dict(averages or dict.fromkeys(KEYS, 0.0))
        self._now: Dict[str, float] = {}
        self._waiting: List[Tuple] = []
        self._lap_begin, self._lap_steps = time.time(), 0

    def add(self, loss: float, scores: np.ndarray, target: np.ndarray) -> None:
        """Note one step; `scores` and `target` as in `accuracies`.

        Costs nothing: the counting is done when figures are asked for.
        """
        self._waiting.append((loss, scores, target))
        self._lap_steps += 1

    def averages(self) -> Dict[str, float]:
        """Return the averages up to now, by name."""
        for loss, scores, target in self._waiting:
            shares = map(float, accuracies(scores, target))
            self._now = dict(zip(KEYS, [float(loss), *shares]))
            for key, value in self._now.items():
                change = value - self._averages[key]
                self._averages[key] += (1 - AVERAGE_DECAY) * change
        self._waiting = []
        return dict(self._averages)

    def figures(self) -> Dict[str, float]:
        """Return the figures of the last step and the averages.

        Returns:
          loss, accuracy_all, accuracy_pos, accuracy_neg; the same with _avg.
        """
        averages = self.averages()
        named = {key + "_avg": value for key, value in averages.items()}
        return dict(self._now, **named)

    def lap(self) -> float:
        """Return the seconds a step since the last call, and begin to count again."""
        seconds = (time.time() - self._lap_begin) / self._lap_steps
        self._lap_begin, self._lap_steps = time.time(), 0
        return seconds


def lines(
    step: int, figures: Dict[str, float], learning_rate: float, seconds: float
) -> str:
    """Return what is printed of a step.

    Args:
      figures: of `Progress.figures`.
      seconds: of `Progress.lap`.
    """
    shares = (
        "{accuracy_all%s:.4f} (all), {accuracy_pos%s:.4f} (pos), "
        "{accuracy_neg%s:.4f} (neg)"
    )
    return "\n".join(
        f"iter = {step}, {text.format(lr=learning_rate, seconds=seconds, **figures)}"
        for text in (
            "loss (cur) = {loss:.4f}, loss (avg) = {loss_avg:.4f}, lr = {lr:.8f}",
            "accuracy (cur) = " + shares % ("", "", ""),
            "accuracy (avg) = " + shares % ("_avg", "_avg", "_avg"),
            "time = {seconds:.4f} s a step",
        )
    )


def header(run: Dict[str, Any], start: str) -> str:
    """Return what is printed before the first step.

    Args:
      run: what run.json says, see `train.describe`.
      start: a line about where the weights come from.
    """
    network = run["network"]
    options = run["model_options"].items()
    model = " ".join([run["model"], *(f"{option_name(n)} {x}" for n, x in options)])
    return "\n".join(
        [
            f"model: {model}, {run['parameters']:,} parameters, "
            f"{run['trained_values']:,} of them trained",
            f"samples: {run['samples']:,} of {run['data_set']} {run['split']}, "
            f"{network['W']}x{network['H']} pixels",
            f"devices: {run['devices']} a worker, workers: {run['workers']}, "
            f"precision: {run['precision']}" + (", compiled by XLA" * run["xla"]),
            f"batch: {run['batch_size']}, until step {run['steps']}, "
            f"seed {run['seed']}",
            start,
        ]
    )


KEYS = ("loss", "accuracy_all", "accuracy_pos", "accuracy_neg")
