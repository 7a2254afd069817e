"""Refine a mask with a fully connected CRF (arXiv:1210.5644)."""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Sequence

import numpy as np

from util.core.errors import UserError

ITERATIONS = 5


def refine(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Let pixels that lie close together or look alike agree on their label.

    The energies are those of the published results: Potts terms of strength 3
    over 3 pixels and of strength 10 over 20 pixels and 3 grey levels.

    Args:
      image: uint8 [H, W, 3], RGB.
      probability: float32 [H, W], 0..1, of each pixel to be on the object.

    Returns:
      bool [H, W], True on the object.

    Raises:
      ValueError: an array has another shape or type, or the probabilities hold
        NaN or lie outside 0..1 (logits need a sigmoid first).
      UserError: pydensecrf is not installed.
    """
    return refine_all(image, [probability])[0]


def refine_all(image: np.ndarray, probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Refine several masks on one image, whose lattices are built once.

    Args:
      image: uint8 [H, W, 3], RGB.
      probabilities: float32 [K, H, W], each as for `refine`.

    Returns:
      bool [K, H, W], each what `refine` returns.

    Raises:
      ValueError, UserError: see `refine`.
    """
    probabilities = np.asarray(probabilities, np.float32)
    for probability in probabilities:
        _check(image, probability)
    rows, columns = image.shape[:2]
    crf = _pydensecrf().DenseCRF2D(columns, rows, 2)
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(
        sxy=20, srgb=3, rgbim=np.ascontiguousarray(image), compat=10
    )
    labels = []
    for probability in probabilities:
        crf.setUnaryEnergy(unary_energy(probability))
        labels.append(np.argmax(crf.inference(ITERATIONS), axis=0))
    return np.reshape(labels, probabilities.shape) == 1


class Workers:
    """Processes that refine masks beside whatever this one does.

    Use it as a context manager.

    Args:
      jobs: int, number of processes, at least 1.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        _pydensecrf()  # its absence is told before any work
        # A fork would copy the threads of TensorFlow.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, context)

    def submit(self, image: np.ndarray, probabilities: Sequence[np.ndarray]) -> Future:
        """Start `refine_all`; its result is that of the future, see `result`."""
        return self._pool.submit(refine_all, image, probabilities)

    @staticmethod
    def result(future: Future, what: str) -> np.ndarray:
        """Wait for what `submit` started.

        Args:
          future: of `submit`.
          what: names the samples in the error.

        Raises:
          UserError: a process died.
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a DenseCRF process died at {what}; free some memory or use fewer "
                "--crf-jobs"
            ) from error

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception) -> None:
        self._pool.shutdown()


def unary_energy(probability: np.ndarray) -> np.ndarray:
    """Compute what the labels cost each pixel on its own.

    Only 0, 1 and subnormal numbers are clipped, so that the logarithms stay
    finite: the largest float32 below 1 is 1 - 2**-24, and 1 minus it is exact.

    Args:
      probability: float32 [H, W], 0..1.

    Returns:
      float32 [2, H * W], finite; row 0 is the ground, row 1 the object.
    """
    smallest = np.finfo(np.float32).tiny
    largest = np.nextafter(np.float32(1), np.float32(0))
    p = np.clip(probability, smallest, largest).ravel()
    return -np.log(np.stack([1 - p, p]))


def _check(image: np.ndarray, probability: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}"
        )
    if probability.shape != image.shape[:2]:
        raise ValueError(
            f"probability is {list(probability.shape)}, but the image is "
            f"{list(image.shape)}"
        )
    if np.isnan(probability).any() or probability.min() < 0 or probability.max() > 1:
        raise ValueError("probability has values that are NaN or outside 0..1")


def _pydensecrf():
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise UserError(
            f"DenseCRF needs the package pydensecrf2 ({error}): install it with `pip "
            "install "
            "pydensecrf2` (Python 3.7 to 3.12), or run without DenseCRF"
        ) from error
    return densecrf
