"""util.permutohedral: against the algorithm in loops, and a Gaussian."""

import collections

import numpy as np
import pytest

from util.inference.permutohedral import GaussianFilter


def points(d, count, spread, seed=0):
    random = np.random.RandomState(seed)
    return random.uniform(-spread / 2, spread / 2, [d, count]).astype(np.float32)


def simplex(feature):
    """Return vertex (a tuple of d + 1 integers) -> weight, for one point."""
    d = len(feature)
    basis = np.zeros([d + 1, d])
    for i in range(d):
        basis[: i + 1, i], basis[i + 1, i] = 1, -(i + 1)
    basis /= np.linalg.norm(basis, axis=0)
    x = basis @ feature * (d + 1) * np.sqrt(2 / 3)
    # The closest of the points whose coordinates are multiples of d + 1 and sum to 0.
    corner = (d + 1) * np.round(x / (d + 1))
    while corner.sum():
        sign = np.sign(corner.sum())
        corner[np.argmin(sign * (x - corner))] -= sign * (d + 1)
    order = np.argsort(corner - x, kind="stable")
    sorted_up = (x - corner)[order][::-1] / (d + 1)
    weights = np.diff(np.concatenate([[sorted_up[-1] - 1], sorted_up]))
    vertices = {}
    for k in range(d + 1):
        vertex = corner + k
        vertex[order[d + 1 - k :]] -= d + 1
        vertices[tuple(vertex.astype(int))] = weights[k]
    return vertices


def in_loops(features, values):
    """Compute what GaussianFilter does, one vertex after the other."""
    d = len(features)
    simplices = [simplex(feature) for feature in features.T.astype(float)]

    def kernel(values):
        held = collections.defaultdict(float)
        for vertices, value in zip(simplices, values):
            for vertex, weight in vertices.items():
                held[vertex] += weight * value
        for axis in range(d + 1):
            step = np.ones(d + 1, int)
            step[axis] = -d
            held = {
                vertex: value
                + sum(held.get(tuple(vertex + sign * step), 0) / 2 for sign in (-1, 1))
                for vertex, value in held.items()
            }
        return np.array(
            [sum(w * held[vertex] for vertex, w in s.items()) for s in simplices]
        )

    scale = 1 / np.sqrt(kernel(np.ones(len(values))))
    return scale * kernel(scale * values)


@pytest.mark.parametrize("d, spread", [(1, 9), (2, 6), (3, 4), (5, 3)])
def test_agrees_with_the_algorithm_in_loops(d, spread):
    features = points(d, 60, spread)
    values = np.random.RandomState(1).normal(size=60).astype(np.float32)
    got = GaussianFilter(features)(values)
    assert got.dtype == np.float32
    wanted = in_loops(features, values)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    assert np.abs(wanted - values).max() > 0.1  # it does mix them


def test_is_close_to_a_gaussian():
    features = points(2, 3000, 6)
    apart = features[:, :, np.newaxis] - features[:, np.newaxis]
    kernel = np.exp(-(apart**2).sum(axis=0) / 2)
    scale = 1 / np.sqrt(kernel.sum(axis=1))
    kernel *= scale * scale[:, np.newaxis]
    chosen = np.random.RandomState(1).choice(3000, 20)
    impulses = np.zeros([3000, 20], np.float32)
    impulses[chosen, np.arange(20)] = 1
    got = GaussianFilter(features)(impulses)
    error = np.linalg.norm(got - kernel[:, chosen], axis=0)
    assert (error < 0.2 * np.linalg.norm(kernel[:, chosen], axis=0)).all()


def test_points_far_apart_do_not_meet():
    features = np.array([[0, 100], [0, -50], [7, 7]], np.float32)
    values = np.array([[1, 0], [0, -2]], np.float32)
    np.testing.assert_allclose(GaussianFilter(features)(values), values, rtol=1e-6)


def test_points_in_one_place_share_alike():
    features = np.repeat(points(5, 1, 3), 4, axis=1)
    got = GaussianFilter(features)(np.array([1, 0, 0, 0], np.float32))
    np.testing.assert_allclose(got, [0.25] * 4, rtol=1e-6)


def test_values_together_are_those_of_one_at_a_time():
    gaussian = GaussianFilter(points(5, 500, 5))
    values = np.random.RandomState(1).normal(size=[500, 7]).astype(np.float32)
    together = gaussian(values)
    for k in range(7):
        np.testing.assert_array_equal(together[:, k], gaussian(values[:, k].copy()))


def test_positions_that_spread_too_far_are_refused():
    features = np.array([[0, 1e5]] * 5, np.float32)
    with pytest.raises(ValueError, match="too far"):
        GaussianFilter(features)
