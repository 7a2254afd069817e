"""util.training.pretraining: what each cell is told, and that it is learned."""

import numpy as np
import pytest
from networks import small_backbone

import deeplab_resnet
from deeplab_resnet import weights
from util.data import im_processing
from util.graph.compat import tf
from util.training import pretraining


def sample(name, ids, rows, columns):
    """A 32 x 32 image named so, with an object in some of its pixels."""
    mask = np.zeros((32, 32), bool)
    mask[rows, columns] = True
    words = np.zeros(20, np.int32)
    words[-len(ids) :] = ids
    image = np.full((32, 32, 3), 50, np.uint8)
    image[mask] = 40 * ids[0]
    return {
        "im_name_batch": [name],
        "im_batch": image,
        "mask_batch": mask,
        "text_batch": words,
    }


def test_cells_have_the_words_of_their_object():
    left = sample("a", [3, 5], slice(8, 16), slice(0, 12))
    right = sample("a", [4, 5], slice(8, 16), slice(12, 16))
    images, maps = pretraining.word_maps([left, sample("b", [3], 0, 0), right], 7)
    assert images.shape == (2, 32, 32, 3) and (images[0] == left["im_batch"]).all()
    assert maps.shape == (2, 4, 4, 7) and maps.dtype == np.float16
    assert maps[0, 1, 0].tolist() == [1, 0, 0, 1, 0, 1, 0]
    # A half of the cell each, and the word of both counts once.
    assert maps[0, 1, 1].tolist() == [0.5, 0, 0, 0.5, 0.5, 0.5, 0]
    assert not maps[0, [0, 2, 3]].any() and not maps[0, 1, 2:].any()
    assert maps[1, 0, 0, 3] == np.float16(1 / 64) and maps[1].sum() == 2 / 64


def test_words_count_where_an_object_is():
    target = np.zeros([1, 2, 2, 3], np.float32)
    target[0, 0] = [[1, 1, 0], [0.5, 0, 0.5]]
    logits = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3) - 5
    entropy = np.log1p(np.exp(logits)) - target * logits
    in_objects = (entropy[0, 0, 0, 1:].sum() + 0.5 * entropy[0, 0, 1, 1:].sum()) / 1.5
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(pretraining.word_loss(logits, target))
        nothing = session.run(pretraining.word_loss(logits, 0 * target))
    wanted = entropy[..., 0].mean() + pretraining.SAID * in_objects
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(nothing, np.log1p(np.exp(logits[..., 0])).mean(), 1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A backbone that was trained on two kinds of objects: (its path, images, maps)."""
    random = np.random.RandomState(0)
    samples = []
    for number in range(2 * pretraining.BATCH):
        row, column = 8 * random.randint(3, size=2)
        where = slice(row, row + 16), slice(column, column + 16)
        samples.append(sample(str(number), [2 + 3 * (number % 2)], *where))
    images, maps = pretraining.word_maps(samples, 6)
    path = str(tmp_path_factory.mktemp("backbone") / "backbone.ckpt")
    with small_backbone():
        pretraining.pretrain(path, images, maps, [1, 1, 1, 1], 60, threads=1)
    return path, images, maps


def left_over(path, images, maps):
    """Return the share of the variance that a linear map of the features leaves."""
    with small_backbone(), tf.Graph().as_default(), tf.Session() as session:
        image = tf.placeholder(tf.float32, [None, 32, 32, 3])
        taps = deeplab_resnet.features(image, units=[1, 1, 1, 1])
        line = weights.load(session, path)
        assert "missing" not in line
        feed = {image: im_processing.to_network_input(images)}
        cells = session.run(taps["c4"], feed).reshape(-1, 64)
    cells = np.hstack([cells, np.ones((len(cells), 1))])
    wanted = maps.reshape(len(cells), 6)[:, [2, 5]].astype(float)
    answer = cells @ np.linalg.lstsq(cells, wanted, rcond=None)[0]
    return np.square(answer - wanted).mean() / wanted.var()


def test_its_features_tell_the_words(trained, tmp_path):
    """Better than features that are all but drawn, which tell much of it already."""
    path, images, maps = trained
    drawn = str(tmp_path / "drawn.ckpt")
    with small_backbone():
        pretraining.pretrain(drawn, images, maps, [1, 1, 1, 1], 1, threads=1)
    # 0.02 and 0.12 when this was written.
    assert left_over(path, images, maps) < left_over(drawn, images, maps) / 2


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    _, images, maps = trained
    paths = [str(tmp_path / name) for name in "ab"]
    with small_backbone():
        for path in paths:
            pretraining.pretrain(path, images, maps, [1, 1, 1, 1], 2, 3, threads=1)
    first, second = [tf.train.load_checkpoint(path) for path in paths]
    name = "res4a_branch2b/weights"
    assert (first.get_tensor(name) == second.get_tensor(name)).all()
