"""Refine a mask with a fully connected CRF (arXiv:1210.5644)."""

import functools
from concurrent.futures import Future
from typing import List, Sequence, Tuple

import numpy as np

from util.core.errors import UserError
from util.core.parallel import Pool
from util.inference.permutohedral import GaussianFilter

BACKENDS = ("own", "pydensecrf")
ITERATIONS = 5
# Standard deviations, in pixels and grey levels, and strengths of the Potts terms.
SMOOTHNESS_PIXELS, SMOOTHNESS_STRENGTH = 3, 3
APPEARANCE_PIXELS, APPEARANCE_GREYS, APPEARANCE_STRENGTH = 20, 3, 10
DIED = "a DenseCRF process died; free some memory or use fewer --crf-jobs"
TOGETHER = 8  # masks that are refined at once; more gain little and take memory


def refine(
    image: np.ndarray, probability: np.ndarray, backend: str = "own"
) -> np.ndarray:
    """Let pixels that lie close together or look alike agree on their label.

    The energies are those of the published results: Potts terms of strength 3
    over 3 pixels and of strength 10 over 20 pixels and 3 grey levels.

    Args:
      image: uint8 [H, W, 3], RGB.
      probability: float32 [H, W], 0..1, of each pixel to be on the object.
      backend: "own" computes with NumPy and SciPy, see `mean_field`; "pydensecrf" with
        that package, which made the published results. The same masks come out, save
        for about one pixel in 100,000, which rounding decides.

    Returns:
      bool [H, W], True on the object.

    Raises:
      ValueError: an array has another shape or type, the probabilities hold NaN or lie
        outside 0..1 (logits need a sigmoid first), or there is no such backend.
      UserError: pydensecrf is asked for and not installed.

    Example:
      >>> image = np.zeros([20, 40, 3], np.uint8)
      >>> image[:, 20:] = 255  # black on the left, white on the right
      >>> probability = np.full([20, 40], 0.3, np.float32)
      >>> probability[:, 25:] = 0.8  # the object, found too small
      >>> np.array_equal(refine(image, probability), image[..., 0] == 255)
      True
    """
    return refine_all(image, [probability], backend)[0]


def refine_all(
    image: np.ndarray, probabilities: Sequence[np.ndarray], backend: str = "own"
) -> np.ndarray:
    """Refine several masks of one image, whose lattices are built once.

    Args:
      image: uint8 [H, W, 3], RGB.
      probabilities: float32 [K, H, W], each as for `refine`.
      backend: as for `refine`.

    Returns:
      bool [K, H, W], each what `refine` returns.

    Raises:
      ValueError, UserError: see `refine`.
    """
    check_backend(backend)
    probabilities = np.asarray(probabilities, np.float32)
    for probability in probabilities:
        _check(image, probability)
    solve = _solve_own if backend == "own" else _solve_pydensecrf
    return np.reshape(solve(image, probabilities), probabilities.shape)


def check_backend(backend: str) -> None:
    """Raise ValueError or UserError if a backend cannot be used, see `refine`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, not one of {BACKENDS}")
    if backend == "pydensecrf":
        _pydensecrf()


def _solve_own(image, probabilities):
    """Return bool [K, H * W]."""
    kernels = image_kernels(image) if len(probabilities) else []
    log_odds = [np.subtract(*unary_energy(one)) for one in probabilities]
    masks = np.empty([len(log_odds), image[..., 0].size], bool)
    for begin in range(0, len(log_odds), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        masks[some] = mean_field(np.stack(log_odds[some], axis=1), kernels).T > 0
    return masks


Kernels = List[Tuple[float, GaussianFilter]]


def image_kernels(image: np.ndarray) -> Kernels:
    """Return strength and filter of the kernels that connect an image's pixels.

    Args:
      image: uint8 [H, W, 3], RGB.
    """
    position = _grid(*image.shape[:2]) / np.float32(APPEARANCE_PIXELS)
    colour = image.reshape(-1, 3).T / np.float32(APPEARANCE_GREYS)
    appearance = GaussianFilter(np.concatenate([position, colour]))
    return [
        (SMOOTHNESS_STRENGTH, _smoothness(*image.shape[:2])),
        (APPEARANCE_STRENGTH, appearance),
    ]


@functools.lru_cache(maxsize=2)  # most images have the size of the last one
def _smoothness(rows, columns):
    return GaussianFilter(_grid(rows, columns) / np.float32(SMOOTHNESS_PIXELS))


def _grid(rows, columns):
    """Return float32 [2, H * W], x and y of each pixel."""
    y, x = np.indices([rows, columns], np.float32)
    return np.stack([x.ravel(), y.ravel()])


def mean_field(log_odds: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Approximate the labels of pixels that all depend on one another.

    The paper's mean field keeps a distribution Q over the labels of each pixel and
    repeats `Q_l = softmax over l of (-u_l + sum_k w_k K_k(Q_l))`, where u is the unary
    energy and K_k filters with kernel k, of strength w_k. With two labels the log-odds
    z = log(Q_1 / Q_0) say it all. As Q_1 - Q_0 = tanh(z / 2) and filters are linear,

      z = (u_0 - u_1) + sum_k w_k K_k(tanh(z / 2)).

    Args:
      log_odds: float32 [N, K], u_0 - u_1 of N pixels in K problems.
      kernels: (w_k, K_k).

    Returns:
      float32 [N, K], z after ITERATIONS; the label is 1 where it is above 0.
    """
    z = log_odds
    for _ in range(ITERATIONS):
        difference = np.tanh(z / 2)
        z = log_odds.copy()
        for strength, kernel in kernels:
            z += strength * kernel(difference)
    return z


def _solve_pydensecrf(image, probabilities):
    """Return bool [K, H * W]."""
    rows, columns = image.shape[:2]
    crf = _pydensecrf().DenseCRF2D(columns, rows, 2)
    crf.addPairwiseGaussian(sxy=SMOOTHNESS_PIXELS, compat=SMOOTHNESS_STRENGTH)
    crf.addPairwiseBilateral(
        sxy=APPEARANCE_PIXELS,
        srgb=APPEARANCE_GREYS,
        rgbim=np.array(image, order="C"),  # it refuses arrays that are read-only
        compat=APPEARANCE_STRENGTH,
    )
    labels = []
    for probability in probabilities:
        crf.setUnaryEnergy(unary_energy(probability))
        labels.append(np.argmax(crf.inference(ITERATIONS), axis=0))
    return np.array(labels) == 1


class Workers:
    """Processes that refine masks while this one goes on.

    Use it as a context manager.

    Args:
      jobs: int, number of processes, at least 1.
      backend: as for `refine`.

    Raises:
      ValueError, UserError: the backend cannot be used, see `refine`.
    """

    def __init__(self, jobs: int, backend: str = "own") -> None:
        check_backend(backend)  # before any work
        self.jobs, self._backend = jobs, backend
        # Threads would be no faster. Next to the network two of them refine 4.46
        # sentences a second, two processes 4.45 (7 an image, float32, two cores of a
        # 2.6 GHz EPYC with AVX-512); without it they take 1.3 times as long, and
        # pydensecrf never frees the lock.
        self._pool = Pool(jobs, DIED)

    def submit(self, image: np.ndarray, probabilities: Sequence[np.ndarray]) -> Future:
        """Start `refine_all`, for `result` to wait for."""
        return self._pool.submit(refine_all, image, probabilities, self._backend)

    def result(self, future: Future, what: str) -> np.ndarray:
        """Wait for what `submit` started, and return it.

        Args:
          future: of `submit`.
          what: names the samples in the error.

        Raises:
          UserError: a process died.
        """
        return self._pool.result(future, what)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception) -> None:
        self._pool.__exit__(*exception)


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
            f"the backend 'pydensecrf' needs the package pydensecrf2 ({error}): use "
            "the backend 'own', or install it with `pip install pydensecrf2` (it needs "
            "a compiler and Python 3.7 to 3.12)"
        ) from error
    return densecrf
