"""What networks are made of, against small sums done in numpy.

util.layers, util.spatial, util.loss and util.optimizer.
"""

import numpy as np
import pytest

from util.graph import algebra, layers, losses, optimizer, recurrent
from util.graph.compat import tf

# float32 against float64 over a few dozen terms.
CLOSE = dict(rtol=1e-5, atol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def compute(build, *inputs):
    """Return what `build` makes of the inputs, and the variables' values by name.

    The variables hold noise, so that none of them could be left out.
    """
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        result = build(*(tf.constant(x, tf.float32) for x in inputs))
        for variable in tf.global_variables():
            variable.load(random.normal(0, 1, variable.shape.as_list()), session)
        values = {v.op.name: v for v in tf.global_variables()}
        return session.run((result, values))


def initial_values(build, *inputs):
    """Return the variables' first values by name."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        build(*(tf.constant(x, tf.float32) for x in inputs))
        session.run(tf.global_variables_initializer())
        return session.run({v.op.name: v for v in tf.global_variables()})


def noise(*shape):
    return np.random.RandomState(1).normal(0, 1, shape)


def test_conv_of_one_lit_pixel_shows_the_kernel():
    x = np.zeros((1, 3, 3, 2))
    x[0, 1, 1, 1] = 1
    y, values = compute(lambda x: layers.conv(x, 4, 3, "c"), x)
    assert set(values) == {"c/DW", "c/biases"}
    assert values["c/DW"].shape == (3, 3, 2, 4)
    wanted = values["c/DW"][::-1, ::-1, 1] + values["c/biases"]
    np.testing.assert_allclose(y[0], wanted, **CLOSE)


def test_conv_pads_with_zeros():
    y, values = compute(lambda x: layers.conv(x, 1, 3, "c"), np.ones((1, 1, 1, 1)))
    wanted = values["c/DW"][1, 1] + values["c/biases"]
    np.testing.assert_allclose(y[0, 0], wanted, **CLOSE)


def test_conv_begins_with_glorot_uniform_and_zeros():
    values = initial_values(lambda x: layers.conv(x, 50, 3, "c"), noise(1, 3, 3, 40))
    limit = np.sqrt(6 / (9 * 40 + 9 * 50))
    kernel = values["c/DW"]
    assert np.abs(kernel).max() <= limit
    # 18000 draws: the error of the deviation is about half a percent.
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
    assert (values["c/biases"] == 0).all()


def test_conv_names_an_input_of_unknown_channels():
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [1, 2, 2, None])
        with pytest.raises(ValueError, match="score: channels of .* are unknown"):
            layers.conv(x, 1, 1, "score")


def numpy_layer_norm(x, beta, gamma):
    axes = (1, 2, 3)
    centred = x - x.mean(axes, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(axes, keepdims=True)) + beta


def test_layer_norm_is_over_all_axes_of_one_element():
    x = noise(2, 3, 4, 5) * 7 + 3
    x[1] += 100
    y, values = compute(lambda x: layers.layer_norm(x, "n"), x)
    assert set(values) == {"n/beta", "n/gamma"}
    wanted = numpy_layer_norm(x, values["n/beta"], values["n/gamma"])
    # The second element's mean is 15 times its deviation: that many digits go.
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)


def test_layer_norm_begins_without_scale_and_shift():
    values = initial_values(lambda x: layers.layer_norm(x, "n"), noise(1, 2, 2, 3))
    np.testing.assert_array_equal(values["n/beta"], [0, 0, 0])
    np.testing.assert_array_equal(values["n/gamma"], [1, 1, 1])


WORDS = noise(3, 4, 5)
IS_WORD = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1]], bool)


def lstm(x):
    return recurrent.lstm(x, tf.constant(IS_WORD), 2, "cell")


def numpy_lstm(x, kernel, bias):
    """Read one sentence without padding, as BasicLSTMCell does."""
    cell = hidden = np.zeros(2)
    outputs = []
    for word in x:
        gates = np.concatenate([word, hidden]) @ kernel + bias
        i, j, f, o = np.split(gates, 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def test_lstm_reads_the_words_and_skips_padding():
    y, values = compute(lstm, WORDS)
    assert set(values) == {"cell/kernel", "cell/bias"}
    for sentence, is_word, found in zip(WORDS, IS_WORD, y):
        wanted = np.zeros((4, 2))
        wanted[is_word] = numpy_lstm(
            sentence[is_word], values["cell/kernel"], values["cell/bias"]
        )
        np.testing.assert_allclose(found, wanted, **CLOSE)


def test_lstm_begins_with_glorot_uniform_and_no_bias():
    values = initial_values(lstm, WORDS)
    assert values["cell/kernel"].shape == (5 + 2, 4 * 2)
    limit = np.sqrt(6 / (7 + 8))
    assert 0.9 * limit < np.abs(values["cell/kernel"]).max() <= limit
    np.testing.assert_array_equal(values["cell/bias"], np.zeros(8))


def numpy_conv_lstm_step(x, cell, hidden, values):
    def norm(x, suffix):
        name = "cell/LayerNorm" + suffix
        return numpy_layer_norm(x, values[name + "/beta"], values[name + "/gamma"])

    gates = np.concatenate([x, hidden], axis=3) @ values["cell/kernel"][0, 0]
    j, i, f, o = np.split(gates, 4, axis=3)
    i = norm(i + values["cell/W_ci"] * cell, "_1")
    f = norm(f + values["cell/W_cf"] * cell, "_2")
    cell = cell * sigmoid(f + 1) + sigmoid(i) * np.tanh(norm(j, ""))
    o = norm(o + values["cell/W_co"] * cell, "_3")
    cell = norm(cell, "_4")
    return cell, sigmoid(o) * np.tanh(cell)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_conv_lstm(steps):
    inputs = [noise(steps, 2, 2, 3, 4)[step] for step in range(steps)]
    found, values = compute(lambda *x: recurrent.conv_lstm(x, "cell"), *inputs)
    assert len(values) == 4 + 5 * 2
    cell = hidden = np.zeros((2, 2, 3, 4))
    for x in inputs:
        cell, hidden = numpy_conv_lstm_step(x, cell, hidden, values)
    # Normalising small differences costs a digit.
    np.testing.assert_allclose(found, hidden, rtol=1e-4, atol=1e-5)


def slopes_of(build, x):
    """Return the gradients of sum(noise * build(x)) by x and by the variables."""
    weights = noise(2, *x.shape)[1]

    def total(x):
        y = tf.reduce_sum(build(x) * weights)
        return tf.gradients(y, [x] + tf.trainable_variables())

    return compute(total, x)[0]


def test_own_gradient_of_layer_norm_is_that_of_its_formula():
    x = 3 + noise(2, 3, 2, 4)

    def plain(x):
        beta, gamma = layers.layer_norm_variables(4, "n")
        mean, variance = tf.nn.moments(x, [1, 2, 3], keepdims=True)
        return (x - mean) * tf.rsqrt(variance + 1e-12) * gamma + beta

    wanted = slopes_of(plain, x)
    found = slopes_of(lambda x: layers.layer_norm(x, "n"), x)
    assert len(found) == 3
    for slope, right in zip(found, wanted):
        np.testing.assert_allclose(slope, right, rtol=1e-4, atol=1e-5)


def test_own_gradient_of_unit_length_is_that_of_its_formula():
    x = noise(3, 2, 5)
    x[0, 0] = 1e-8  # shorter than what it divides by at least
    found = compute(layers.l2_normalize, x)[0]
    np.testing.assert_allclose(found[1:], compute(unit, x)[0][1:], rtol=1e-6)
    np.testing.assert_allclose(found[0, 0], 1e-2, rtol=1e-5)
    found, wanted = slopes_of(layers.l2_normalize, x), slopes_of(unit, x)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)


def unit(x):
    return tf.nn.l2_normalize(x, axis=-1)


@pytest.mark.parametrize("size", [(12, 20), (7, 5), (2, 3)])
def test_resized_scores_and_their_gradient(size):
    weights = noise(2, *size, 1)

    def both(x):
        resized = tf.image.resize_bilinear(x, size), layers.resize_scores(x, *size)
        return resized, [tf.gradients(y * weights, [x])[0] for y in resized]

    (wanted, found), (slope, own) = compute(both, noise(2, 3, 4, 1))[0]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(own, slope, **CLOSE)


def test_gradient_of_the_cross_entropy():
    logits, target = 30 * noise(2, 3, 4, 1), noise(2, 3, 4, 1) > 0

    def slope(logits, target):
        return tf.gradients(losses.segmentation_loss(logits, target), [logits])

    wanted = (sigmoid(logits) - target) / 2  # the mean over two sentences
    found = compute(slope, logits, target)[0]
    np.testing.assert_allclose(found[0], wanted, **CLOSE)


def test_layer_norm_of_a_product():
    shares = np.abs(noise(2, 6, 3))
    shares /= shares.sum(axis=2, keepdims=True)
    rows = 2 + noise(2, 3, 4)
    y, values = compute(
        lambda u, r: layers.layer_norm_of_product(u, r, "n"), shares, rows
    )
    product = (shares @ rows)[:, :, np.newaxis]
    wanted = numpy_layer_norm(product, values["n/beta"], values["n/gamma"])
    np.testing.assert_allclose(y, wanted[:, :, 0], rtol=1e-4, atol=1e-5)


def test_convolve_by_a_product_is_the_convolution():
    x, kernel, bias = noise(2, 4, 6, 3), noise(1, 1, 3, 5), noise(5)
    for stride in (1, 2):
        found, _ = compute(
            lambda *v: layers.convolve(*v, stride=stride, activation=tf.nn.relu),  # noqa: B023
            x, kernel, bias,
        )  # fmt: skip
        wanted = np.maximum(x[:, ::stride, ::stride] @ kernel[0, 0] + bias, 0)
        np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("size", [3, 5])
def test_a_map_of_scores_is_the_convolution(size):
    weights = noise(2, 5, 6, 1)

    def both(x, kernel):
        maps = (
            layers.convolve(x, kernel, tf.zeros([1])),
            tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME"),
        )
        return [(y, tf.gradients(y * weights, [x, kernel])) for y in maps]

    many = layers.MANY
    found, wanted = compute(both, noise(2, 5, 6, many), noise(size, size, many, 1))[0]
    for value, right in zip(tf.nest.flatten(found), tf.nest.flatten(wanted)):
        # Sums of thousands of terms, of the largest value.
        np.testing.assert_allclose(value, right, atol=1e-6 * np.abs(right).max())


def test_a_gated_convolution_and_its_gradients():
    x, gate, weights = noise(2, 3, 2, 4), sigmoid(noise(2, 1, 1, 5)), noise(2, 3, 2, 5)

    def plain(x, gate):
        return gate * layers.conv(x, 5, 1, "c", tf.nn.relu)

    def slopes(build):
        def both(x, gate):
            y = build(x, gate)
            return y, tf.gradients(y * weights, [x, gate, *tf.trainable_variables()])

        return compute(both, x, gate)[0]

    found = slopes(lambda x, gate: layers.gated_conv(x, gate, "c"))
    assert len(found[1]) == 4
    assert_all_close(found, slopes(plain))


@pytest.mark.parametrize("numbers", [[0, 0, 0], [1, 0, 1]])
def test_terms_of_images_are_added_up_for_their_sentences(numbers):
    images, sentences = noise(2, 2, 3, 2, 4), noise(2, 3, 1, 1, 4)
    weights = noise(3, 3, 2, 4)

    def slopes(add_up):
        def both(images, sentences):
            y = add_up(tf.unstack(images), tf.unstack(sentences))
            return y, tf.gradients(y * weights, [images, sentences])

        return compute(both, images, sentences)[0]

    def plain(images, sentences):
        return sum(tf.gather(x, numbers) * w for x, w in zip(images, sentences))

    found = slopes(lambda *terms: algebra.Share(numbers).weighted_sum(*terms))
    assert_all_close(found, slopes(plain))


def assert_all_close(found, wanted):
    for value, right in zip(tf.nest.flatten(found), tf.nest.flatten(wanted)):
        np.testing.assert_allclose(value, right, **CLOSE)


def test_coordinates_of_a_grid():
    found = layers.coordinates(2, 4)
    assert found.shape == (2, 4, 8) and found.dtype == np.float32
    # left, top, right, bottom, centre x, centre y, 1 / columns, 1 / rows
    np.testing.assert_allclose(found[0, 0], [-1, -1, -0.5, 0, -0.75, -0.5, 0.25, 0.5])
    np.testing.assert_allclose(found[1, 3], [0.5, 0, 1, 1, 0.75, 0.5, 0.25, 0.5])


def test_segmentation_loss_is_a_sum_over_pixels_and_a_mean_over_the_batch():
    logits = np.array([[0.0, 2.0], [-1.0, 3.0]]).reshape([2, 1, 2, 1])
    target = np.array([[0.0, 1.0], [1.0, 0.0]]).reshape([2, 1, 2, 1])
    found, _ = compute(losses.segmentation_loss, logits, target)
    right = sigmoid(np.array([0.0, 2.0, -1.0, -3.0]))
    assert found == pytest.approx(-np.log(right).sum() / 2, rel=1e-6)


def test_weight_decay_is_half_the_squared_length():
    found, _ = compute(
        lambda a, b: losses.l2_regularization_loss([a, b], 0.5), [3.0], [[1.0, 2.0]]
    )
    assert found == pytest.approx(0.5 * (9 + 1 + 4) / 2)


def train(start_lr, decay_steps, steps_taken, warm_up=0):
    """Take a step on (weight + biases) from 0, at some step of the schedule.

    Returns:
      (learning rate, values by name).
    """
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("text_objseg"):
            weight = tf.get_variable("c/DW", [], initializer=tf.zeros_initializer())
            biases = tf.get_variable("c/biases", [], initializer=tf.zeros_initializer())
            rate, step = optimizer.adam(
                weight + biases,
                [weight, biases],
                [],
                0.0,
                start_lr,
                decay_steps,
                step_counter="steps",
                warm_up=warm_up,
            )
        session.run(tf.global_variables_initializer())
        values = {v.op.name: v for v in tf.global_variables()}
        values["text_objseg/steps"].load(steps_taken, session)
        rate, _ = session.run([rate, step])
        return rate, session.run(values)


@pytest.mark.parametrize(
    "steps_taken, wanted",
    [
        (0, 2.5e-4),
        (400000, 1e-5 + 2.4e-4 * 0.5**0.9),
        (800000, 1e-5),
        (900000, 1e-5),
    ],
)
def test_schedule_of_the_learning_rate(steps_taken, wanted):
    rate, values = train(2.5e-4, 800000, steps_taken)
    assert rate == pytest.approx(wanted, rel=1e-5)
    assert values["text_objseg/steps"] == steps_taken + 1


def test_the_learning_rate_grows_first():
    rates = [train(0.1, 800000, steps, warm_up=4)[0] for steps in (0, 1, 3, 4)]
    assert rates == pytest.approx([0.025, 0.05, 0.1, 0.1], rel=1e-4)


def test_gradients_of_biases_count_twice():
    _, values = train(0.1, 100, 0)
    # After one step Adam's first moment is a tenth of the gradient, which is 1.
    slots = "text_objseg/text_objseg/c/{}/Adam"
    assert values[slots.format("DW")] == pytest.approx(0.1)
    assert values[slots.format("biases")] == pytest.approx(0.2)
    # The second moment is a thousandth of its square, where float32 has 1 - 0.999 to
    # five digits; the first step is the sign.
    assert values[slots.format("biases") + "_1"] == pytest.approx(0.004, rel=1e-4)
    assert values["text_objseg/c/DW"] == pytest.approx(-0.1, rel=1e-4)
    assert values["text_objseg/c/biases"] == pytest.approx(-0.1, rel=1e-4)


def table_after_two_steps(make_step):
    """Take two steps of 0.1, each with other words; return the table and op types."""
    with tf.Graph().as_default() as graph:
        start = np.arange(12, dtype=np.float32).reshape(6, 2) / 10
        table = tf.get_variable("table", initializer=start)
        ids = tf.placeholder(tf.int32, [3])
        loss = tf.reduce_sum(tf.square(tf.nn.embedding_lookup(table, ids) - 1.0))
        step = make_step(loss, table)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for words in ([1, 2, 1], [4, 5, 5]):
                session.run(step, {ids: words})
            types = {op.type for op in graph.get_operations()}
            return session.run(table) - start, types


def test_the_word_table_moves_as_with_slices_but_in_one_operation():
    """Also rows whose words do not come again, by what Adam remembers of them."""

    def ours(loss, table):
        return optimizer.adam(loss, [table], [], 0.0, 0.1, 10**9, "counter")[1]

    moved, types = table_after_two_steps(ours)
    assert not types & {"Unique", "ScatterAdd", "ResourceScatterAdd"}
    right, types = table_after_two_steps(
        lambda loss, _: tf.train.AdamOptimizer(0.1).minimize(loss)
    )
    assert types & {"ScatterAdd", "ResourceScatterAdd"}
    np.testing.assert_allclose(moved, right, rtol=1e-5, atol=1e-7)
    assert moved[0].tolist() == moved[3].tolist() == [0, 0]
    assert (np.abs(moved[[1, 2]]) > 0.11).all()  # more than the first step alone
