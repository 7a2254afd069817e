"""Filter values that lie at points of any dimension with a Gaussian, quickly.

The method is that of Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice" (Eurographics 2010), written here as products of sparse matrices.
With N points in d dimensions:

1. The points are laid into the plane of R^(d+1) whose coordinates sum to 0. The lattice
   tiles this plane with simplices of d + 1 vertices.
2. Splat: each point spreads its value over the vertices of the simplex around it.
3. Blur: along each of the lattice's d + 1 axes in turn, each vertex adds half of the
   values of its two neighbours. Only vertices that a point touches exist.
4. Slice: each point gathers what its vertices hold, with the weights of the splat.

All coordinates below are divided by d + 1. Those of a lattice point are then
r + k / (d + 1), where k, the remainder, is one of 0, 1, ..., d, the same in all
coordinates, and r are integers that sum to -k. Each simplex has one vertex of each
remainder.
"""

from typing import List, Tuple

import numpy as np
from scipy import sparse


class GaussianFilter:
    """A Gaussian filter for the values at fixed points, symmetrically normalised.

    With K(v)_i = sum over j of exp(-|f_i - f_j|^2 / 2) v_j, approximated up to a
    factor, it computes K'(v) = n * K(n * v), where n = 1 / sqrt(K(1)) at each point.

    Args:
      features: float32 [d, N], finite; positions f in units of the standard deviation,
        d and N at least 1.

    Raises:
      ValueError: the positions spread too far for keys of 64 bits: over thousands of
        standard deviations in each of 5 dimensions.

    Example:
      >>> line = np.array([[0, 1, 50]], np.float32)
      >>> near, one_away, far = GaussianFilter(line)(np.array([1, 0, 0], np.float32))
      >>> print(f"{near:.2f} {one_away:.2f} {far:.2f}")
      0.59 0.40 0.00
    """

    def __init__(self, features: np.ndarray) -> None:
        corner, rank, weights = _enclosing_simplices(_embed(features))
        strides = _strides(corner)
        keys, self._splat = _splat(corner, rank, weights, strides)
        self._blurs = _blurs(keys, strides)
        scale = 1 / np.sqrt(self(np.ones(features.shape[1], np.float32)))
        self._splat.data *= scale[self._splat.indices]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Filter one or more values at each point.

        Args:
          values: float32 [N] or [N, K]; K values together take less time than one
            after the other, and each comes out the same.

        Returns:
          float32, the shape of `values`.
        """
        at_vertices = self._splat @ values
        for blur in self._blurs:
            at_vertices += blur @ at_vertices
        return self._splat.T @ at_vertices


def _embed(features: np.ndarray) -> np.ndarray:
    """Lay points into the plane where coordinates sum to 0.

    Feature i moves along (1, ..., 1, -(i + 1), 0, ..., 0), which has i + 1 ones; these
    directions are orthogonal. The scale makes the blur that of splat, blur and slice
    together, whose variance along each axis is 2/3 (d + 1)^2 in the lattice's units.

    Returns:
      float32 [d + 1, N], divided by d + 1.
    """
    d = len(features)
    i = np.arange(1, d + 1)
    scaled = features * np.float32(np.sqrt(2 / 3) / np.sqrt(i * (i + 1)))[:, np.newaxis]
    position = np.zeros([d + 1, features.shape[1]], np.float32)
    position[:-1] = np.cumsum(scaled[::-1], axis=0)[::-1]
    position[1:] -= i.astype(np.float32)[:, np.newaxis] * scaled
    return position


def _enclosing_simplices(
    position: np.ndarray,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the simplex around each point, and where in it the point lies.

    The closest lattice point of remainder 0 is one of its vertices. The others follow
    from the order of the differences to it.

    Args:
      position: float32 [d + 1, N].

    Returns:
      corner: int64 [d + 1, N], the vertex of remainder 0.
      rank: int64 [d + 1, N], 0 for the coordinate with the largest difference
        `position - corner`, d for the smallest.
      weights: float32 [d + 1, N], barycentric: row k belongs to the vertex of remainder
        k; they sum to 1.
    """
    d = len(position) - 1
    corner = np.rint(position)
    difference = position - corner
    rank = np.zeros(position.shape, np.int8)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            below = difference[i] < difference[j]
            rank[i] += below
            rank[j] += ~below
    # Rounding may leave the plane: then the coordinates that were rounded furthest
    # up or down take a step back, and the ranks turn over.
    rank += corner.sum(axis=0).astype(np.int8)
    step = (rank < 0).astype(np.int8) - (rank > d)
    corner += step
    difference -= step
    rank = rank + step.astype(np.int64) * (d + 1)
    ascending = np.empty_like(difference)
    np.put_along_axis(ascending, d - rank, difference, axis=0)
    first = 1 - ascending[-1:] + ascending[:1]
    weights = np.concatenate([first, np.diff(ascending, axis=0)])
    return corner.astype(np.int64), rank, weights


def _strides(corner: np.ndarray) -> np.ndarray:
    """Return int64 [d + 1] which tell lattice points of one remainder k apart.

    The key of a point is the sum of r * strides. The last stride is 0: as the integers
    r sum to -k, all but the last are enough.
    """
    # Other vertices of the simplices reach one below their corners, and neighbours of
    # these one further: integers that are compared differ by less than the widths.
    widths = np.ptp(corner[:-1], axis=1) + 3
    if np.prod(widths, dtype=float) > 2.0**62:
        raise ValueError("the positions spread too far for keys of 64 bits")
    return np.cumprod([1, *widths[:-1], 0])


def _splat(
    corner: np.ndarray, rank: np.ndarray, weights: np.ndarray, strides: np.ndarray
) -> Tuple[List[np.ndarray], sparse.csr_matrix]:
    """Number the vertices and spread the points over them.

    The vertex of remainder k + 1 of a simplex is one below that of remainder k in one
    coordinate, that of rank d - k.

    Args:
      corner, rank, weights: of `_enclosing_simplices`.
      strides: of `_strides`.

    Returns:
      keys: for each remainder the keys of the V vertices that exist, ascending.
      splat: float32 [V + 1, N]: those vertices one remainder after the other, and a row
        of zeros that stands for vertices that do not exist.
    """
    d, points = len(corner) - 1, corner.shape[1]
    of_rank = np.empty_like(rank)
    np.put_along_axis(of_rank, rank, strides[:, np.newaxis], axis=0)
    key = strides @ corner
    keys, starts = [], []
    order = np.empty(rank.shape, np.int32)  # the points, those of a vertex together
    for k in range(d + 1):
        order[k] = np.argsort(key, kind="stable")  # sums in one order
        ordered = key[order[k]]
        start = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        keys.append(ordered[start])
        starts.append(start + k * points)
        weights[k] = weights[k, order[k]]
        key -= of_rank[d - k]
    end = rank.size
    starts = np.concatenate([*starts, [end, end]]).astype(np.int32)
    shape = len(starts) - 1, points
    return keys, sparse.csr_matrix((weights.ravel(), order.ravel(), starts), shape)


def _blurs(keys: List[np.ndarray], strides: np.ndarray) -> List[sparse.csr_matrix]:
    """Connect the vertices along each axis.

    A step along axis j leads from remainder k to k + 1 and lowers coordinate j by one.
    From remainder d it leads to 0, and all coordinates rise by one as well.

    Args:
      keys: of `_splat`.
      strides: of `_strides`.

    Returns:
      For each axis float32 [V + 1, V + 1], the halves of both neighbours. A missing one
      is the last, which always holds 0.
    """
    first = np.cumsum([0] + [len(some) for some in keys])
    missing = first[-1]
    halves = np.full(2 * (missing + 1), 0.5, np.float32)
    starts = np.arange(0, len(halves) + 1, 2, dtype=np.int32)
    blurs = []
    for stride in strides:
        neighbours = np.full([missing + 1, 2], missing, np.int32)
        for k, some in enumerate(keys):
            following = (k + 1) % len(keys)
            wanted = some - stride
            if following == 0:
                wanted += strides.sum()
            there = np.searchsorted(keys[following], wanted)
            np.minimum(there, len(keys[following]) - 1, out=there)
            here = np.flatnonzero(keys[following][there] == wanted)
            there = there[here] + first[following]
            here += first[k]
            neighbours[here, 0] = there
            neighbours[there, 1] = here
        matrix = halves, neighbours.ravel(), starts
        blurs.append(sparse.csr_matrix(matrix, [len(neighbours)] * 2))
    return blurs
