"""util.graph.products: what is computed in fewer digits, and how far that is off."""

import networks
import numpy as np
import pytest

from util.graph import layers, products, recurrent
from util.graph.compat import tf

MODERN = int(tf.VERSION.split(".")[0]) >= 2
# Of 8 and 11 binary digits: each factor is rounded by that at most.
ROUNDED = {"bfloat16": 2.0**-9, "float16": 2.0**-12}


def numbers(*shape):
    return tf.constant(np.random.RandomState(sum(shape)).randn(*shape), tf.float32)


def convolution(size, filters, channels=12, **options):
    def function():
        x, kernel = numbers(2, 6, 8, channels), numbers(size, size, channels, filters)
        return (x, kernel), layers.convolve(x, kernel, tf.zeros([filters]), **options)

    return function


def gated():
    x, gate = numbers(2, 6, 8, 12), numbers(2, 1, 1, 5)
    y = layers.gated_conv(x, gate, "gated")
    return (x, gate), y


def memory():
    x = numbers(2, 6, 8, 3)
    v = recurrent.conv_lstm_variables(6, 8, 3)
    return (x, *v.of_input), tf.stack(recurrent.gates_of_input(x, v))


CASES = {
    "1x1": convolution(1, 5),
    "3x3": convolution(3, 5),
    "strided": convolution(3, 5, stride=2),
    "dilated": convolution(3, 5, rate=2),
    "gated": gated,
    "memory": memory,
}


def computed(function, dtype):
    """Return the result, its gradients, and the dtypes of all products."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(1)
        products.compute_in(dtype)
        inputs, y = function()
        gradients = tf.gradients(tf.reduce_sum(y * y), inputs)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            values = session.run([y, *gradients])
        kinds = ("MatMul", "BatchMatMul", "Conv2D")
        dtypes = {
            op.outputs[0].dtype.name
            for op in graph.get_operations()
            if op.type.startswith(kinds)
        }
        return values, dtypes


@pytest.mark.parametrize("size", [1, 3])
def test_scores_keep_all_digits(size):
    right, _ = computed(convolution(size, 1), tf.float32)
    found, dtypes = computed(convolution(size, 1), tf.bfloat16)
    assert dtypes == {"float32"}
    for one, other in zip(found, right):
        np.testing.assert_array_equal(one, other)


def losses(name, dtype):
    """Return the losses of a small network, and the dtypes of all its kernels."""
    make, sizes = networks.NETWORKS[name]
    with networks.without_training_step(), tf.Graph().as_default() as graph:
        products.compute_in(dtype)
        model = make(mode="train", **sizes)
        with tf.Session() as session:
            networks.load_recipe(session, model)
            fed = networks.feed(model, [(1, 5)], sizes)
            found = session.run(model.losses, fed)
        dtypes = {op.inputs[1].dtype for op in graph.get_operations()
                  if op.type == "Conv2D"}  # fmt: skip
        return found, dtypes


@pytest.mark.skipif(not MODERN, reason="TensorFlow 1 lacks such kernels on a CPU")
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_in_bfloat16_has_nearly_the_same_losses(name, small_backbone):
    right, dtypes = losses(name, tf.float32)
    assert dtypes == {tf.float32}
    found, dtypes = losses(name, tf.bfloat16)
    assert tf.bfloat16 in dtypes
    for key, loss in right.items():
        assert found[key] != loss
        assert found[key] == pytest.approx(loss, rel=2e-2), key


@pytest.mark.skipif(not MODERN, reason="TensorFlow 1 lacks such kernels on a CPU")
@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("case", CASES)
def test_products_with_kernels_are_of_fewer_digits(case, name):
    exact, dtypes = computed(CASES[case], tf.float32)
    assert dtypes == {"float32"}
    rough, dtypes = computed(CASES[case], tf.as_dtype(name))
    assert dtypes == {name}
    for right, found in zip(exact, rough):
        assert found.dtype == np.float32
        error = np.abs(found - right).max() / np.abs(right).max()
        assert ROUNDED[name] / 20 < error < 12 * ROUNDED[name]
