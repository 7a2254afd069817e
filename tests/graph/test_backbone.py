"""deeplab_resnet: one layer by hand, what calibrating does, and gradients."""

from unittest import mock

import numpy as np
import pytest
import recipe

import deeplab_resnet
from deeplab_resnet import model as backbone
from util.graph.compat import tf


def layer(x, **options):
    """Return conv_bn's output for kernel entries 1 ... 9 and moments of choice."""
    stored = {"moving_mean": 5, "moving_variance": 4, "gamma": 3, "beta": 1}
    with tf.Graph().as_default(), tf.Session() as session:
        y = backbone.conv_bn(tf.constant(x, tf.float32), 1, 3, "2a_branch2b", **options)
        values = {v.op.name: v for v in tf.global_variables()}
        assert set(values) == {"res2a_branch2b/weights"} | {
            "bn2a_branch2b/" + name for name in stored
        }
        values["res2a_branch2b/weights"].load(KERNEL, session)
        for name, value in stored.items():
            values["bn2a_branch2b/" + name].load([value], session)
        return session.run(y)


KERNEL = np.arange(1.0, 10).reshape([3, 3, 1, 1])
LIT = np.zeros((1, 8, 8, 1))
LIT[0, 4, 4] = 1


def normalised(y):
    return 3 * (y - 5) / np.sqrt(4 + 1e-3) + 1


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_a_dilated_layer_has_gaps_between_the_entries_of_its_kernel(rate):
    wanted = np.zeros((16, 16))
    offsets = [-rate, 0, rate]
    for n, row in enumerate(offsets):
        for m, column in enumerate(offsets):
            wanted[8 - row, 8 - column] = KERNEL[n, m, 0, 0]
    lit = np.zeros((1, 16, 16, 1))
    lit[0, 8, 8] = 1
    found = layer(lit, rate=rate)[0, :, :, 0]
    np.testing.assert_allclose(found, normalised(wanted), rtol=1e-5)


def test_a_strided_layer_takes_every_second_cell():
    all_cells = layer(LIT)[0, :, :, 0]
    # SAME padding of an even side puts the odd row below: the window begins at 0.
    np.testing.assert_allclose(layer(LIT, stride=2)[0, :, :, 0], all_cells[1::2, 1::2])


def test_moments_of_the_batch_give_mean_0_and_variance_1():
    y = layer(np.random.RandomState(0).normal(9, 5, (2, 8, 8, 1)), batch_moments=True)
    # beta and gamma stay; epsilon is small beside the variance of some thousands.
    assert y.mean() == pytest.approx(1, abs=1e-4)
    assert y.std() == pytest.approx(3, rel=1e-4)


@pytest.fixture(scope="module")
def drawn():
    """A backbone drawn at random and calibrated with one batch.

    Yields:
      (session, image placeholder, features with stored moments, images).
    """
    images = np.stack(
        [recipe.network_input(recipe.image(seed, 64, 64)) for seed in range(4)]
    )
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        image = tf.placeholder(tf.float32, [None, 64, 64, 3])
        features = deeplab_resnet.features(image)
        session.run(tf.global_variables_initializer())
        deeplab_resnet.calibrate(session, [images])
        yield session, image, features, images


def test_features_are_taken_at_an_eighth_of_the_side(drawn):
    shapes = {level: tap.shape.as_list() for level, tap in drawn[2].items()}
    assert shapes == {
        "c3": [None, 8, 8, 512],
        "c4": [None, 8, 8, 1024],
        "c5": [None, 8, 8, 2048],
    }


def test_calibrating_stores_the_moments_of_the_images(drawn):
    """Stored moments and the batch's own then normalise alike, in all 104 layers."""
    session, image, features, images = drawn
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        by_batch = deeplab_resnet.features(image, batch_moments=True)
    found, wanted = session.run((features, by_batch), {image: images})
    for level in ("c3", "c4", "c5"):
        # Kernels scaled in advance round otherwise, 104 layers deep.
        error = np.abs(found[level] - wanted[level]).max()
        assert error <= 1e-4 * wanted[level].max()
        # Neither vanished nor exploded.
        assert 0.1 < wanted[level].std() < 10


@pytest.fixture
def narrow(monkeypatch):
    """Make the network small: two units a block, 16 channels wide."""
    blocks = [b._replace(units=b.units[:2], width=16) for b in backbone.BLOCKS]
    monkeypatch.setattr(backbone, "BLOCKS", blocks)


def test_gradients_reach_all_blocks(narrow):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        features = deeplab_resnet.features(tf.random.normal([2, 16, 16, 3]))
        kernels = [v for v in tf.trainable_variables() if "/weights" in v.op.name]
        assert len(kernels) == 1 + 4 * 7
        slopes = tf.gradients(tf.reduce_sum(features["c5"]), kernels)
        session.run(tf.global_variables_initializer())
        for kernel, slope in zip(kernels, session.run(slopes)):
            assert np.abs(slope).max() > 0, kernel.op.name


def test_units_are_quietened_in_one_run(narrow, monkeypatch):
    """Each run of other fetches prepares the whole graph, for half a second."""
    with tf.Graph().as_default(), tf.Session() as session:
        deeplab_resnet.features(tf.zeros([1, 16, 16, 3]))
        session.run(tf.global_variables_initializer())
        gammas = [v for v in tf.global_variables() if "branch2c/gamma" in v.op.name]
        run = mock.Mock(wraps=session.run)
        monkeypatch.setattr(session, "run", run)
        backbone.quieten_units(session)
        assert run.call_count == 1
        found = {v.op.name[2:4]: set(one) for v, one in zip(gammas, run(gammas))}
    scales = {"a": 0.5, "b": 0.0}  # of the first unit and the second
    assert found == {f"{n}{unit}": {scales[unit]} for n in "2345" for unit in "ab"}


def test_calibrating_averages_over_the_batches(narrow):
    random = np.random.RandomState(0)
    batches = [random.normal(level, 30, (1, 16, 16, 3)) for level in (-20, 60)]

    def measure(batches):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            deeplab_resnet.features(tf.placeholder(tf.float32, [None, 16, 16, 3]))
            session.run(tf.global_variables_initializer())
            deeplab_resnet.calibrate(session, iter(batches))
            return session.run(
                [v for v in tf.global_variables() if "/moving_" in v.op.name]
            )

    first, second = (measure([batch]) for batch in batches)
    both = measure(batches)
    assert len(both) == 2 * (1 + 4 * 7)
    assert np.abs(first[0] - second[0]).max() > 1
    for one, other, mean in zip(first, second, both):
        np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-4, atol=1e-4)


def test_fewer_units_are_those_that_add_something(narrow):
    """A unit whose last gamma is 0 adds nothing, and is as good as not there."""
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.random.stateless_normal([2, 16, 16, 3], [1, 2])
        whole = deeplab_resnet.features(image)
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            part = deeplab_resnet.features(image, units=[1, 2, 1, 1])
        session.run(tf.global_variables_initializer())
        for block, last in (("2", "b"), ("4", "b1"), ("5", "b")):
            name = f"bn{block}{last}_branch2c/gamma"
            (gamma,) = [v for v in tf.global_variables() if v.op.name == name]
            gamma.load(np.zeros(64, np.float32), session)
        for level, (found, wanted) in session.run(
            {level: (part[level], whole[level]) for level in whole}
        ).items():
            assert np.abs(found - wanted).max() == 0 and wanted.std() > 0, level


def shapes_of(**sizes):
    """Return name -> shape of the variables of a backbone."""
    with tf.Graph().as_default():
        deeplab_resnet.features(tf.placeholder(tf.float32, [1, 16, 16, 3]), **sizes)
        return {v.op.name: v.shape.as_list() for v in tf.global_variables()}


def test_a_checkpoint_tells_how_small_it_is(narrow):
    for sizes in ({"units": [1, 2, 1, 1]}, {"width": 12}, {}):
        assert deeplab_resnet.stored_sizes(shapes_of(**sizes)) == sizes
    both = {"units": [1, 1, 2, 1], "width": 4}
    assert deeplab_resnet.stored_sizes(shapes_of(**both)) == both
    assert deeplab_resnet.stored_sizes({"text_objseg/score/DW": [3, 3, 8, 1]}) == {}
    for no_kernel in ([], [16], [7, 7, 3, 0]):
        assert deeplab_resnet.stored_sizes({"conv1/weights": no_kernel}) == {}


def test_a_narrow_backbone_is_narrow_throughout():
    whole, narrow = shapes_of(units=[1] * 4), shapes_of(units=[1] * 4, width=16)
    assert whole.keys() == narrow.keys()
    for name, shape in narrow.items():
        wide = [4 * side if side > 7 else side for side in shape]
        assert wide == whole[name], name
    assert narrow["res5a_branch2b/weights"] == [3, 3, 128, 128]
    with tf.Graph().as_default():
        image = tf.placeholder(tf.float32, [1, 16, 16, 3])
        levels = deeplab_resnet.features(image, width=16)
    channels = {level: tap.shape.as_list()[3] for level, tap in levels.items()}
    assert channels == {"c3": 128, "c4": 256, "c5": 512}
