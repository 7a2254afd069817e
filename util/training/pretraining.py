"""A small backbone, trained on images and sentences where no published one is at hand.

The published backbone was trained to tell the categories of each pixel. This one is
trained to tell, in each cell of the grid, which words are said of the object there, and
at its last level, which sees furthest, those that are said of the object beside it.

Axes: N images, H rows, W columns, h = H / 8, w = W / 8, V words.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

import deeplab_resnet
from deeplab_resnet import model as backbone
from deeplab_resnet import weights
from util.data import im_processing
from util.graph.compat import tf
from util.graph.layers import conv, conv_variables, convolve
from util.graph.session import new_session

LEVELS, LAST_LEVEL = ("c3", "c4"), "c5"  # tell words of the object, and all words
BATCH = 8  # images of a step
LEARNING_RATE, LAST_LEARNING_RATE = 0.002, 1e-5
# Weights of what is said of an object and of the one beside it, which is harder to
# tell, against whether there is one.
SAID, SAID_BESIDE = 0.1, 0.5
WARM_UP = 50  # steps
WEIGHT_DECAY = 1e-4
SHARPNESS = 16  # logit of a cell whose features are a word's direction
MEASURED = 16  # batches that the stored moments are of


def word_maps(
    samples: Iterable[Dict[str, Any]],
    told: Callable[[str], Tuple[Sequence[str], Sequence[str]]],
    words: Sequence[str],
) -> Tuple[np.ndarray, np.ndarray]:
    """Say of each cell of each image which words are said of it.

    Args:
      samples: of the network's size, see `samples.read_sample`.
      told: of a sentence, what it says of its object and of the one beside it, see
        `shapes_scenes.told`.
      words: the V words that these can be.

    Returns:
      (images, maps): uint8 [N, H, W, 3], and float16 [N, h, w, 1 + 2 V], the share,
      0..1, of the cell that belongs: to any object; to one with each word; to one
      beside an object with each word.
    """
    place = {word: number for number, word in enumerate(words, 1)}
    images, maps = {}, {}
    for sample in samples:
        name, mask = sample["im_name_batch"][0], sample["mask_batch"]
        rows, columns = (side // im_processing.STRIDE for side in mask.shape)
        if name not in images:
            images[name] = sample["im_batch"]
            maps[name] = np.zeros([rows, columns, 1 + 2 * len(words)], np.float16)
        cells = mask.reshape(rows, im_processing.STRIDE, columns, im_processing.STRIDE)
        share = cells.mean(axis=(1, 3), dtype=np.float32)[..., np.newaxis]
        own, beside = told(sample["sent_batch"][0])
        said = {0, *(place[word] for word in own)}
        said.update(len(words) + place[word] for word in beside)
        said = sorted(said)
        maps[name][..., said] = np.maximum(maps[name][..., said], share)
    return np.stack(list(images.values())), np.stack(list(maps.values()))


def pretrain(
    path: str,
    images: np.ndarray,
    maps: np.ndarray,
    units: Sequence[int],
    width: int,
    steps: int,
    seed: int = 0,
    threads: Optional[int] = None,
) -> None:
    """Train a backbone to tell the words of each cell, and save its weights.

    The loss is that of `word_loss`, once for LEVELS together and once for LAST_LEVEL.

    Args:
      path: of the checkpoint.
      images, maps: of `word_maps`.
      units, width: of the blocks and layers, see `deeplab_resnet.features`.
      steps: how many, of BATCH images each.
      seed: of the first weights and of the order.
      threads: see `session.new_session`.

    Variables:
      those of `deeplab_resnet.features`
    """
    with tf.Graph().as_default():
        tf.set_random_seed(seed)
        image = tf.placeholder(tf.float32, [None, *images.shape[1:]])
        target = tf.placeholder(tf.float32, [None, *maps.shape[1:]])
        taps = deeplab_resnet.features(
            image, batch_moments=True, units=units, width=width
        )
        loss, step = _learn(taps, target, steps)
        saver = tf.train.Saver(weights.variables(tf.get_default_graph()))
        with new_session(threads=threads) as session:
            session.run(tf.global_variables_initializer())
            backbone.quieten_units(session)
            batches = _batches(len(images), seed)
            bar = tqdm(range(steps), "training the backbone", unit="step")
            for _ in bar:
                chosen = next(batches)
                batch = im_processing.to_network_input(images[chosen])
                value, _ = session.run(
                    [loss, step], {image: batch, target: maps[chosen]}
                )
                bar.set_postfix(loss=f"{value:.2f}", refresh=False)
            measured = (next(batches) for _ in range(MEASURED))
            measured = (im_processing.to_network_input(images[n]) for n in measured)
            backbone.measure_moments(session, image, measured)
            saver.save(session, path, write_meta_graph=False, write_state=False)


def _learn(taps, target, steps):
    """Return the loss, and the op of a step."""
    words = target.shape.as_list()[-1] // 2
    own = [conv(taps[name], 1 + words, 1, "words_" + name) for name in LEVELS]
    loss = word_loss(tf.add_n(own), target[..., : 1 + words])
    loss += word_loss(directions(taps[LAST_LEVEL], 1 + 2 * words), target, words)
    count = tf.train.get_or_create_global_step()
    rate = tf.train.polynomial_decay(
        LEARNING_RATE, count, steps, LAST_LEARNING_RATE, power=0.9
    )
    rate *= tf.minimum(1.0, (tf.cast(count, tf.float32) + 1) / WARM_UP)
    optimizer = tf.train.AdamOptimizer(rate)
    gradients = [
        (_with_decay(gradient, variable), variable)
        for gradient, variable in optimizer.compute_gradients(loss)
    ]
    return loss, optimizer.apply_gradients(gradients, global_step=count)


def directions(features, words):
    """Tell words by the directions of the features.

    A head scales the features of a cell to unit length, and learns fast what moves them
    far then. A direction takes a share of that length for each word; factors as large
    as need be would tell a word from next to nothing.

    Args:
      features: float32 [N, h, w, C].
      words: int, V.

    Returns:
      float32 [N, h, w, V], SHARPNESS times the cosine of the angle to the direction of
      each word, plus a bias.

    Variables:
      directions/DW  [1, 1, C, V]
      directions/biases  [V]
    """
    channels = features.shape.as_list()[3]
    kernel, bias = conv_variables(channels, words, 1, "directions")
    kernel = SHARPNESS * tf.nn.l2_normalize(kernel, 2)
    return convolve(tf.nn.l2_normalize(features, 3), kernel, bias)


def word_loss(logits, target, beside=0):
    """Compute how far the words are from what is said of each cell.

    In every cell it counts whether there is an object, and in those that have one,
    which words are said of it. Where nothing is, the words would only say so again,
    and such cells, most of an image, would be most of the loss.

    Args:
      logits, target: float32 [N, h, w, 1 + V], as in `word_maps`.
      beside: int, how many of the words, the last ones, are of the object beside it.

    Returns:
      Scalar float32: the mean cross entropy of the first, plus the sum of those of the
      words, each times SAID or SAID_BESIDE, averaged over the cells by their share of
      object.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
    own = target.shape.as_list()[3] - 1 - beside
    factors = tf.constant([0.0] + [SAID] * own + [SAID_BESIDE] * beside)
    share = target[..., 0]
    said = tf.reduce_sum(share * tf.reduce_sum(factors * entropy, axis=3))
    objects = tf.maximum(tf.reduce_sum(share), 1.0)  # less than a cell counts as one
    return tf.reduce_mean(entropy[..., 0]) + said / objects


def _with_decay(gradient, variable):
    if not variable.op.name.endswith("/weights"):
        return gradient
    return gradient + WEIGHT_DECAY * variable


def _batches(number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the images of each step; each at most once a round."""
    random = np.random.RandomState(seed)
    size = min(BATCH, number)
    while True:
        order = random.permutation(number)
        for first in range(0, number - size + 1, size):
            yield order[first : first + size]
