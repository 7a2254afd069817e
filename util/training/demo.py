"""The whole project in ten minutes: draw, build, train, test, look.

The frozen backbone sees each training image once and its features stay in memory;
a step takes all sentences of a few scenes. The test scenes are not touched before
training has ended.
"""

import argparse
import collections
import itertools
import os
from typing import Any, Dict, Iterator, List

import numpy as np
from tqdm import tqdm

from util.data import datasets, im_processing, text_processing
from util.data.build import build_samples
from util.data.data_reader import DataReader
from util.evaluation import evaluate
from util.evaluation.evaluate import Result, best_mask
from util.graph.compat import tf
from util.graph.session import new_session
from util.inference import dense_crf, visualize
from util.inference.predictor import Predictor
from util.models.base import grid_sizes
from util.training import start
from util.training.feature_cache import tap_tensors
from util.training.feeds import Feed, words_and_masks
from util.training.loop import Loop, Schedule, TrainState
from util.training.snapshots import Snapshots

DATASET = "shapes"
STEPS = 2000
LEARNING_RATE = 0.0015
SCENES = 2  # a step, each with all its sentences
SEED = 0
SHEET_SCENES, SHEET_SENTENCES = 6, 2

Samples = List[Dict[str, Any]]


def run(model_class, args: argparse.Namespace) -> Dict[str, float]:
    """Draw, build, train, test with DenseCRF, and show what was found.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      args: options of `trainval_model.py -m demo`.

    Returns:
      overall_iou, blind_iou, pair_accuracy: what is printed and written.
    """
    for split in ("train", "test"):
        dataset = datasets.get(DATASET, args.data, args.batches)
        build_samples(dataset, split, jobs=os.cpu_count())
    snapshot = train(model_class, args)
    samples = load_samples(args, "test")
    with Predictor(snapshot) as predictor:
        with dense_crf.Workers(os.cpu_count()) as workers:
            results = find_all(predictor, samples, "testing", workers)
        blind = find_all(predictor, shuffle_sentences(samples), "blind")
    tally = evaluate.Results.of(results)
    blind = evaluate.Results.of(blind).scores[evaluate.WITHOUT_CRF]
    print(tally.report())
    summary = {
        "overall_iou": tally.scores[evaluate.WITH_CRF].overall_iou,
        "blind_iou": blind.overall_iou,
        "pair_accuracy": pair_accuracy(results),
    }
    print(
        "blind (sentences shuffled, without DenseCRF): overall IoU = {blind_iou:.4f}\n"
        "two sentences about two objects of a scene: {pair_accuracy:.4f} of the pairs "
        "find each its own".format(**summary)
    )
    evaluate.write_record(snapshot, DATASET, "test", tally, demo=summary)
    sheet = os.path.join(args.folder, "demo.png")
    visualize.save_png(sheet, visualize.contact_sheet(choose(results)))
    print(f"images: {sheet}")
    return summary


def load_samples(args: argparse.Namespace, split: str) -> Samples:
    """Read all samples of a split."""
    folder = datasets.find_batch_dir(DATASET, split, args.data, args.batches)
    prefix = datasets.sample_prefix(DATASET, split)
    with DataReader(folder, prefix, shuffle=False) as reader:
        return [
            dict(reader.read_batch(), number=number, position=0, skipped=0)
            for number in range(reader.num_batch)
        ]


def by_image(samples: Samples) -> List[Samples]:
    """Group samples by the image that they show."""
    images = collections.OrderedDict()
    for sample in samples:
        images.setdefault(sample["im_name_batch"][0], []).append(sample)
    return list(images.values())


def train(model_class, args: argparse.Namespace) -> str:
    """Train a small network and return the path of its snapshot."""
    scenes = by_image(load_samples(args, "train"))
    rows, columns = scenes[0][0]["im_batch"].shape[:2]
    dataset = datasets.DATASETS[DATASET]
    vocabulary = datasets.vocabulary_file(DATASET, args.data)
    options = {
        **grid_sizes(rows, columns),
        **model_class.channels(**model_class.defaults(dataset)),
        "vocab_size": text_processing.vocabulary_size(vocabulary),
        "start_lr": LEARNING_RATE,
    }
    # Padding changes nothing, but each position costs time.
    options["num_steps"] = max(
        np.count_nonzero(sample["text_batch"]) for sample in itertools.chain(*scenes)
    )
    number = sum(map(len, scenes))
    with tf.Graph().as_default():
        tf.set_random_seed(SEED)
        model = model_class(
            mode="train",
            batch_size=SCENES * len(scenes[0]),
            num_images=SCENES,
            lr_decay_step=STEPS,
            **options,
        )
        snapshots = Snapshots(args.folder, DATASET)
        snapshots.copy_beside(vocabulary)
        with new_session() as session:
            session.run(tf.global_variables_initializer())
            chosen = scenes[: start.CALIBRATION_IMAGES]
            start.calibrate(session, model, [s[0]["im_batch"] for s in chosen])
            features = see(session, model, scenes)
            plan = Schedule(last=STEPS, every=STEPS)
            begin = TrainState(0, SEED, number, [0])
            loop = Loop(session, model, snapshots, plan, begin)
            return loop.run(feeds(model, scenes, features))


def see(session, model, scenes: List[Samples]) -> List[np.ndarray]:
    """Run the backbone on each scene's image once.

    Returns:
      float16 [number of scenes, h, w, C] for each of the taps c3, c4, c5.
    """
    images = np.stack([scene[0]["im_batch"] for scene in scenes])
    images = np.concatenate([images, images[: -len(images) % SCENES]])
    features = []
    for first in tqdm(range(0, len(images), SCENES), "looking", unit="step"):
        image = im_processing.to_network_input(images[first : first + SCENES])
        found = session.run(tap_tensors(model), {model.im: image})
        features.append([tap.astype(np.float16) for tap in found])
    return [np.concatenate(tap)[: len(scenes)] for tap in zip(*features)]


def feeds(model, scenes, features) -> Iterator[Feed]:
    """Yield what to feed for each step, for ever: random scenes, all sentences."""
    random = np.random.RandomState(SEED)
    while True:
        order = random.permutation(len(scenes))
        for first in range(0, len(order) - SCENES + 1, SCENES):
            chosen = order[first : first + SCENES]
            samples = list(itertools.chain(*(scenes[n] for n in chosen)))
            values = words_and_masks(model, samples)
            values.update(zip(tap_tensors(model), (tap[chosen] for tap in features)))
            yield Feed(values, samples)


def find_all(predictor, samples: Samples, title: str, workers=None) -> List[Result]:
    """Segment all samples, with a progress bar."""
    found = evaluate.find_masks(predictor, enumerate(samples), workers)
    return list(tqdm(found, title, len(samples), unit="sentence"))


def shuffle_sentences(samples: Samples) -> Samples:
    """Give each sample the sentence of another: what is left is a blind guess."""
    order = np.random.RandomState(SEED).permutation(len(samples))
    return [
        dict(sample, text_batch=samples[other]["text_batch"])
        for sample, other in zip(samples, order)
    ]


def pair_accuracy(results: List[Result]) -> float:
    """Compute how often another sentence about an image finds another object.

    Returns:
      The share, 0..1, of the pairs of sentences about two objects of one scene in which
      each mask that the network found (DenseCRF may wipe out an unsure one) overlaps
      its own object more than the other one.
    """
    scenes = collections.defaultdict(list)
    for result in results:
        scenes[result.sample["im_name_batch"][0]].append(result)
    verdicts = [
        _finds_own(one, other) and _finds_own(other, one)
        for scene in scenes.values()
        for one, other in itertools.combinations(scene, 2)
        if not np.array_equal(one.sample["mask_batch"], other.sample["mask_batch"])
    ]
    return float(np.mean(verdicts))


def _finds_own(result, other):
    found = result.masks[evaluate.WITHOUT_CRF]
    own, others = result.sample["mask_batch"], other.sample["mask_batch"]
    return (found & own).sum() > (found & others).sum()


def choose(results: List[Result]) -> List:
    """Choose what the contact sheet shows: a few scenes, sentences side by side."""
    scenes = collections.OrderedDict()
    for result in results:
        objects = scenes.setdefault(result.sample["im_name_batch"][0], {})
        objects.setdefault(result.sample["mask_batch"].tobytes(), result)
    shown = itertools.islice(scenes.values(), SHEET_SCENES)
    rows = []
    for objects in shown:
        for result in itertools.islice(objects.values(), SHEET_SENTENCES):
            sample = result.sample
            rows.append(
                (
                    sample["im_batch"],
                    sample["mask_batch"],
                    best_mask(result),
                    sample["sent_batch"][0],
                    "",
                )
            )
    return rows
