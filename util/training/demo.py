"""The whole project in ten minutes: draw, build, train, test, show.

It trains as `-m train` does, only smaller: the backbone has few and narrow units and
is trained here first, its features stay in memory, and a step takes all sentences of a
few scenes. The test scenes are not touched before training has ended.
"""

import collections
import itertools
import os
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
from tqdm import tqdm

from util.core import files
from util.core.errors import Stopped
from util.core.surroundings import cores
from util.data import datasets, shapes_scenes
from util.data.build import build_samples
from util.data.datasets import Dataset
from util.evaluation import breakdown, evaluate
from util.evaluation.eval_tools import TERMS
from util.evaluation.evaluate import Result, best_mask
from util.graph import checkpoint
from util.inference import dense_crf, visualize
from util.inference.predictor import Predictor
from util.training import feature_cache, pretraining, run_log
from util.training.feeds import TrainingSet
from util.training.loop import Schedule, TrainState
from util.training.machine import Machine
from util.training.start import Start
from util.training.train import chosen_options, network_options, train

DATASET = "shapes"
BACKBONE = "backbone.ckpt"
UNITS, WIDTH, BACKBONE_STEPS = (1, 2, 1, 1), 16, 1000
STEPS, WARM_UP = 10000, 300
LEARNING_RATE = 0.0015
OPTIONS = {"loss": "region"}  # of a model that has it, where none is chosen
SCENES, SENTENCES = 2, 8  # of a step, and of each scene
SEED = 0
REMEMBERED_BYTES = 10**9  # more than all samples take, see `samples.Remembered`
SHEET_SCENES, SHEET_SENTENCES = 6, 2

Samples = List[Dict[str, Any]]


def run(model_class, args) -> Dict[str, float]:
    """Draw, build, train, test with DenseCRF, and show predictions.

    Args:
      model_class: of `models.load`.
      args: options of `trainval_model.py -m demo`.

    Returns:
      overall_iou, relations_iou, blind_iou, pair_accuracy: what is printed and written.
    """
    checkpoint.require_usable_name(args.folder)
    dataset = datasets.get(DATASET, args.data, args.batches)
    for split in ("train", "test"):
        build_samples(dataset, split, jobs=cores())
    options = chosen_options(model_class, args)
    if not options and set(OPTIONS) <= set(model_class.OPTIONS):
        options = dict(OPTIONS)
    with files.locked(args.folder):
        run_log.require_own(args.folder, DATASET)
        backbone = os.path.join(args.folder, BACKBONE)
        seed = SEED if args.seed is None else args.seed
        train_backbone(dataset, backbone, seed)
        how = {"options": options, "backbone": backbone}
        snapshot = train_small(model_class, dataset, args.folder, STEPS, seed, **how)
    samples = list(read_samples(dataset, "test"))
    with Predictor(snapshot) as predictor:
        about = {"model": predictor.model, "options": predictor.options}
        with dense_crf.Workers(cores(), args.crf_backend) as workers:
            results = find_all(predictor, samples, "testing", workers)
        blind = find_all(predictor, shuffle_sentences(samples), "blind")
    results_of_all = evaluate.Results.of(results)
    blind = evaluate.Results.of(blind).scores[evaluate.WITHOUT_CRF]
    relations = about_relations(results_of_all.samples)
    print(f"{results_of_all.report()}\n({TERMS})")
    summary = {
        "overall_iou": results_of_all.scores[evaluate.WITH_CRF].overall_iou,
        "relations_iou": breakdown.scores(relations, evaluate.WITH_CRF).overall_iou,
        "blind_iou": blind.overall_iou,
        "pair_accuracy": pair_accuracy(results),
    }
    print(
        'relations ("the circle above the square", {count} sentences): overall IoU = '
        "{relations_iou:.4f} (oIoU, with DenseCRF)\n"
        "blind (sentences shuffled, without DenseCRF): overall IoU = {blind_iou:.4f} "
        "(oIoU)\n"
        "two sentences about two objects of a scene: {pair_accuracy:.4f} of the pairs "
        "find each its own".format(count=len(relations), **summary)
    )
    evaluate.write_record(
        snapshot,
        DATASET,
        "test",
        results_of_all,
        per_sample=True,
        weights=checkpoint.fingerprint(snapshot),
        demo=summary,
        **about,
    )
    sheet = os.path.join(args.folder, "demo.png")
    visualize.save_png(sheet, visualize.contact_sheet(choose(results)))
    print(f"images: {sheet}")
    return summary


def read_samples(dataset: Dataset, split: str) -> Iterator[Dict[str, Any]]:
    """Read all samples of a split, one by one."""
    samples = dataset.samples(split)
    return (samples.read(number) for number in range(len(samples)))


def train_backbone(
    dataset: Dataset, path: str, seed: int = SEED, threads: Optional[int] = None
) -> None:
    """Train a small backbone on the split train and save its weights.

    Args:
      dataset: `shapes`, with the samples of its split train.
      path: of the checkpoint.
      seed, threads: see `pretraining.pretrain`.
    """
    told, words = shapes_scenes.told, shapes_scenes.TELLING
    images, maps = pretraining.word_maps(read_samples(dataset, "train"), told, words)
    how = UNITS, WIDTH, BACKBONE_STEPS, seed, threads
    pretraining.pretrain(path, images, maps, *how)


def train_small(
    model_class,
    dataset: Dataset,
    folder: str,
    steps: int,
    seed: int = SEED,
    options: Optional[Dict[str, Any]] = None,
    backbone: Optional[str] = None,
    init_from: Optional[str] = None,
    threads: Optional[int] = None,
) -> str:
    """Train a small network and return the path of its snapshot.

    Args:
      model_class: of `models.load`.
      dataset: `shapes`, with the samples of its split train.
      folder: of the snapshot; older ones of the demo are replaced.
      steps: how many, of SCENES * SENTENCES sentences each.
      seed: of everything that is drawn.
      options: of the model, see `models.OPTIONS`.
      backbone: path of what `train_backbone` saved.
      init_from: in place of it, path of a snapshot to start from.
      threads: see `session.new_session`.

    Raises:
      UserError: backbone or snapshot are missing or do not fit.
      Stopped: a signal came before the last step.
    """
    training_set = TrainingSet(
        dataset,
        "train",
        sentences_per_image=SENTENCES,
        remembered_bytes=REMEMBERED_BYTES,
    )
    options = options or {}
    number, how = training_set.number, {"sentences_per_image": SENTENCES}
    snapshot = train(
        model_class,
        _small_network(model_class, training_set, steps, init_from, options),
        training_set,
        Start(
            TrainState(0, seed, number, [0], options, **how),
            init_from=init_from,
            backbone=backbone,
        ),
        Schedule(last=steps, every=steps),
        folder,
        Machine(SCENES * SENTENCES, threads=threads),
        feature_cache.Options(path=None, dtype="float16"),
    )
    if snapshot != checkpoint.path(folder, dataset.name, steps):
        raise Stopped(
            f"a signal came before step {steps}: the same command starts this training "
            "again"
        )
    return snapshot


def _small_network(model_class, training_set, steps, init_from, options):
    """Return the arguments of the network, see `train.network_options`."""
    samples = read_samples(training_set.dataset, training_set.split)
    longest = max(np.count_nonzero(sample["text_batch"]) for sample in samples)
    return network_options(
        model_class,
        training_set,
        init_from=init_from,
        start_lr=LEARNING_RATE,
        warm_up=WARM_UP,
        lr_decay_step=steps,
        units=UNITS,
        width=WIDTH,
        num_steps=int(longest),  # padding changes nothing, but takes time
        **options,
    )


def find_all(predictor, samples: Samples, title: str, workers=None) -> List[Result]:
    """Segment all samples, with a progress bar."""
    found = evaluate.find_masks([predictor], enumerate(samples), workers)
    found = map(evaluate.with_masks_of_rounds, found)  # levels would be too many
    return list(tqdm(found, title, len(samples), unit="sentence"))


def shuffle_sentences(samples: Samples) -> Samples:
    """Give each sample the sentence of another: what is left is a blind guess."""
    order = np.random.RandomState(SEED).permutation(len(samples))
    return [
        dict(sample, text_batch=samples[other]["text_batch"])
        for sample, other in zip(samples, order)
    ]


def about_relations(rows: Sequence[breakdown.Row]) -> List[breakdown.Row]:
    """Choose those of the rows of `Results.samples` that are about relations.

    Args:
      rows: with sentences of the grammar of `shapes`, see `shapes_scenes.kind_of`.

    Returns:
      Those whose sentence says how its figure stands to another, in their order.
    """
    return [row for row in rows if shapes_scenes.kind_of(row["sentence"]) == "relation"]


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
