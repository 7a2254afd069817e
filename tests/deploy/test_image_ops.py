"""util.deploy.image_ops: the graph gives bit for bit what numpy gives."""

import numpy as np
import pytest

from util.data import im_processing
from util.deploy import image_ops
from util.graph.compat import tf

NETWORK = 64, 48
# Rows and columns: tiny, thin, of the network's shape, growing, shrinking, odd.
SIZES = (
    [(1, 1), (1, 2), (2, 1), (1, 97), (500, 3), (3, 500), (64, 48), (128, 96), (32, 24)]
    + [(63, 48), (64, 47), (65, 49), (480, 640), (333, 127), (10, 2000)]
    + [tuple(size) for size in np.random.RandomState(1).randint(1, 200, (25, 2))]
)


class Graph:
    """The operations in a session, as functions of arrays."""

    def __init__(self):
        with tf.Graph().as_default():
            self._image = tf.placeholder(tf.uint8, [None, None, 3])
            self._x = tf.placeholder(tf.float32, [None, *NETWORK])
            self._size = tf.placeholder(tf.int64, [2])
            size = tf.unstack(self._size)
            fitted = image_ops.fit_image(self._image, *NETWORK)
            assert fitted.shape.as_list() == [*NETWORK, 3]
            self._seen = fitted, image_ops.to_network_input(fitted)
            self._restored = (
                image_ops.restore_mask(self._x > 0.5, *size),
                image_ops.resize_and_crop(self._x, *size),
            )
            self._session = tf.Session()

    def see(self, image):
        return self._session.run(self._seen, {self._image: image})

    def restore(self, x, size):
        return self._session.run(self._restored, {self._x: x, self._size: size})

    def close(self):
        self._session.close()


@pytest.fixture(scope="module")
def graph():
    graph = Graph()
    yield graph
    graph.close()


def assert_same(found, wanted):
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def images(size):
    random = np.random.RandomState(sum(size))
    yield random.randint(0, 256, (*size, 3)).astype(np.uint8)
    yield random.randint(200, 256, (*size, 3)).astype(np.uint8)  # what is around is 0
    yield np.full((*size, 3), 255, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_fitted_images_are_the_same(graph, size):
    for image in images(size):
        fitted, fed = graph.see(image)
        wanted = im_processing.fit_image(image, *NETWORK)
        assert_same(fitted, wanted)
        assert_same(fed, im_processing.to_network_input(wanted))


@pytest.mark.parametrize("size", SIZES)
def test_restored_masks_and_probabilities_are_the_same(graph, size):
    random = np.random.RandomState(sum(size))
    x = random.uniform(size=(3, *NETWORK)).astype(np.float32)
    x[1] = np.float32(0.1)  # rounding may leave the range of the values
    x[2] = x[2] > 0.99
    masks, probability = graph.restore(x, size)
    for found, restored, one in zip(probability, masks, x):
        assert_same(restored, im_processing.restore_mask(one > 0.5, *size))
        assert_same(found, im_processing.resize_and_crop(one, *size))


def test_a_network_too_large_for_int32_sums_is_exact():
    size = 1600, 1400
    image = np.random.RandomState(1).randint(0, 256, (90, 70, 3)).astype(np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        fitted = session.run(image_ops.fit_image(tf.constant(image), *size))
    assert_same(fitted, im_processing.fit_image(image, *size))


def test_halves_are_rounded_alike_where_all_shapes_are_known():
    """As products with a reciprocal they would be a bit more or less than a half."""
    x = np.random.RandomState(1).uniform(size=(1, 30, 20)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        size = tf.placeholder(tf.int64, [2])
        restored = image_ops.resize_and_crop(tf.constant(x), *tf.unstack(size))
        for columns in range(1, 200, 2):
            found = session.run(restored, {size: (1, columns)})
            assert_same(found[0], im_processing.resize_and_crop(x[0], 1, columns))


def test_only_what_the_crop_keeps_is_computed(graph):
    """The whole scaled mask would have 2 * 10**11 pixels."""
    mask = np.zeros([1, *NETWORK], np.float32)
    mask[0, :, NETWORK[1] // 2] = 1
    restored, probability = graph.restore(mask, (500000, 1))
    assert restored.shape == probability.shape == (1, 500000, 1)
    assert restored.all()
    image = np.full((500000, 1, 3), 7, np.uint8)
    assert graph.see(image)[0].max() == 7
