"""Training, from the options of the command line to the last snapshot."""

import contextlib
import os
from typing import Any, Callable, Dict, Optional

import numpy as np

from util import models
from util.core import files
from util.core.errors import UserError
from util.core.surroundings import number_of_devices
from util.data import datasets, text_processing, vocabularies
from util.graph import checkpoint
from util.graph.compat import temporary_graph, tf
from util.graph.session import enough_memory, prepare_graph, versions
from util.models.base import grid_sizes, is_trained
from util.training import feature_cache, progress, run_log
from util.training.feeds import TrainingSet, feeds
from util.training.loop import Loop, Schedule
from util.training.machine import Machine
from util.training.run_log import RunLog
from util.training.snapshots import Snapshots
from util.training.start import (
    Start,
    backbone_file,
    begin,
    load_word_vectors,
    resume_state,
)

LESS_MEMORY = "take fewer sentences a step (-bs), or end what else uses it"


def run(model_class, args) -> None:
    """Train a network and leave snapshots, alone or as a task of a cluster.

    Args:
      model_class: of `models.load`.
      args: options of `trainval_model.py -m train`.

    Raises:
      UserError: missing or bad samples, vectors, backbone or snapshots, snapshots in
        the way, a cache of other features, or a bad TF_CONFIG.
      Stopped: training makes no sense any more. (When a process of the job died this
        one ends too, see `cluster.end_with_others`.)
    """
    dataset = datasets.get(args.dataset, args.data, args.batches)
    training_set = TrainingSet(
        dataset, args.split, args.skip_damaged, args.sentences_per_image
    )
    devices = number_of_devices(args.gpus)
    how = args.threads, args.precision, args.xla
    machine = find_machine(args.batch_size, devices, *how)
    machine.check_fits(training_set)
    if not machine.is_chief:
        machine.serve(training_set)
        return
    checkpoint.require_usable_name(args.folder)
    with files.locked(args.folder):
        _run_alone(model_class, args, dataset, training_set, machine)


def _run_alone(model_class, args, dataset, training_set, machine):
    """Train in a folder where nobody else writes."""
    run_log.require_own(args.folder, dataset.name)
    options = chosen_options(model_class, args)
    state = resume_state(
        args.folder,
        training_set,
        args.resume,
        args.seed,
        machine.workers,
        options,
        model_class.NAME,
    )
    backbone = None
    if args.backbone == "file" and not (state.snapshot or args.init_from):
        backbone = backbone_file(args.data)
    network = network_options(
        model_class,
        training_set,
        channels={"v_emb_dim": args.v_emb_dim, "mlp_dim": args.mlp_dim},
        init_from=state.snapshot or args.init_from,
        embedding=args.embedding,
        start_lr=args.learning_rate,
        lr_decay_step=args.decay_steps,
        warm_up=args.warm_up,
        weight_decay=args.weight_decay,
        keep_prob_rnn=args.keep_prob_rnn,
        keep_prob_emb=args.keep_prob_emb,
        conv5=args.conv5,
        **options,
    )
    schedule = Schedule(
        last=min(args.iteration, args.stop),
        every=args.snapshot,
        minutes=args.save_minutes,
        image_steps=args.image_steps,
    )
    if args.eval_steps:
        schedule = schedule._replace(
            eval_steps=args.eval_steps,
            evaluate=evaluation(
                dataset, args.eval_set, args.eval_samples, args.precision
            ),
            about={"split": args.eval_set},
        )
    cache = None
    if args.cache_features:
        limit = args.cache_size and args.cache_size * 1e9
        cache = feature_cache.Options(args.cache_features, args.cache_dtype, limit)
    train(
        model_class,
        network,
        training_set,
        Start(state, args.init_from, args.init_vocabulary, backbone),
        schedule,
        args.folder,
        machine,
        cache,
        options=vars(args),
    )


def train(
    model_class,
    network: Dict[str, Any],
    training_set: TrainingSet,
    start: Start,
    schedule: Schedule,
    folder: str,
    machine: Machine,
    cache: Optional[feature_cache.Options] = None,
    options: Optional[Dict[str, Any]] = None,
) -> str:
    """Train a network and leave snapshots, as the process that takes the steps.

    The order is the point, since each step needs those before it:

    1. The graph, where things go in it, and the seed of what is drawn.
    2. The model, which makes its variables in the order of the checkpoints.
    3. Where there are other machines, the lines to them: also part of the graph.
    4. The session, which all machines compute for.
    5. The first values. What does not fit is refused here at the latest.
    6. The folder: snapshots, vocabulary, log. A run that was refused leaves nothing.
    7. The samples of all machines, from the position that the state says.
    8. The cache, which belongs to the backbone that step 5 has loaded.
    9. What is fed, and the loop.

    They end in the opposite order, also after an error.

    Args:
      model_class: of `models.load`.
      network: arguments of `model_class`, see `network_options`.
      training_set: what is trained on.
      start: where to start.
      schedule: when to do what.
      folder: of the snapshots and the log; made where missing.
      machine: what computes.
      cache: where features of a frozen backbone are kept; None: they are not.
      options: of the command line, for run.json.

    Returns:
      The path of the last snapshot.

    Raises:
      UserError: a file is missing or does not fit, the folder cannot be written, or
        the device has not enough memory.
      Stopped: a loss or a weight is NaN or infinite.
    """
    state = start.state
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(enough_memory(LESS_MEMORY))
        enter(temporary_graph())
        prepare_graph(machine.precision)
        enter(tf.device(machine.placement()))
        tf.set_random_seed(state.seed)
        model = model_class(
            batch_size=machine.batch_size,
            grouped=training_set.sentences_per_image > 1,
            mode="train",
            towers=machine.towers(network.get("conv5", False)),
            staged=machine.stages and cache is None,
            **network,
        )
        machine.connect(training_set.form)
        session = enter(machine.session(model))
        line = begin(session, model, training_set, start)
        snapshots = Snapshots(folder, training_set.dataset.name)
        snapshots.copy_vocabulary(training_set.dataset.vocabulary_file)
        log = enter(RunLog(folder, state.step))
        about = describe(model_class, network, training_set, start, schedule, machine)
        log.begin(dict(about, options=options or {}), state.step)
        print(progress.header(about, line), flush=True)
        samples = enter(machine.samples(session, training_set, state))
        kept = None
        if cache:
            kept = feature_cache.open_cache(session, model, cache, machine.precision)
        feed = enter(contextlib.closing(feeds(model, samples, kept)))
        return Loop(session, model, snapshots, schedule, state, log).run(feed)


def find_machine(
    batch_size: int,
    devices: int,
    threads: Optional[int],
    precision: str,
    xla: bool,
) -> Machine:
    """Return what computes: this machine, or this task of those that TF_CONFIG names.

    Args:
      as for `Machine`.

    Raises:
      UserError: TF_CONFIG is wrong, they cannot share a step, or were asked for XLA.
    """
    if os.environ.get("TF_CONFIG"):
        from util.training import cluster

        job = cluster.read()
        if job and xla:
            raise UserError(
                "--xla is for one machine: leave it out, or unset TF_CONFIG"
            )
        if job:
            return cluster.Task(job, batch_size, devices, threads, precision)
    return Machine(batch_size, devices, threads, precision, xla=xla)


def chosen_options(model_class, args) -> Dict[str, str]:
    """Return the options of `models.OPTIONS` that a command line or a default gives.

    Raises:
      UserError: the model has no such option.
    """
    options = {name: getattr(args, name) for name in models.OPTIONS}
    options = {name: value for name, value in options.items() if value}
    for name in options:
        if name not in model_class.OPTIONS:
            raise UserError(f"{model_class.NAME} has no {models.option_name(name)}")
    return {**model_class.default_options(), **options}


def network_options(
    model_class,
    training_set: TrainingSet,
    channels: Optional[Dict[str, Optional[int]]] = None,
    init_from: Optional[str] = None,
    embedding: bool = False,
    **learning: Any,
) -> Dict[str, Any]:
    """Return the arguments of a model for training, save batch size and devices.

    Args:
      model_class: of `models.load`.
      training_set: gives sizes of images and vocabulary, and the default channels.
      channels: those that are chosen, by the name of the argument; None: the default.
      init_from: a snapshot, also one to resume from, whose sizes are the default.
      embedding: start from the word vectors of the data set.
      **learning: more arguments, as they are.

    Raises:
      UserError: the word vectors or the snapshot of --init-from are missing or do not
        fit, or the model has no use for word vectors.
    """
    if embedding and "glove" not in model_class.Arguments._fields:
        raise UserError(f"{model_class.NAME} takes no word vectors: leave out -emb")
    dataset = training_set.dataset
    defaults = model_class.defaults(dataset)
    sizes = model_class.channels(**defaults)
    if init_from:
        snapshot = checkpoint.without_ending(init_from)
        _, sizes = models.to_start_from(snapshot, model_class.NAME)
        defaults = {name: sizes[name] for name in defaults}
    chosen = {name: number for name, number in (channels or {}).items() if number}
    if chosen:
        sizes = {**sizes, **model_class.channels(**{**defaults, **chosen})}
    network = {
        **sizes,
        **grid_sizes(training_set.rows, training_set.columns),
        "num_steps": text_processing.MAX_WORDS,
        "vocab_size": training_set.vocab_size,
        **learning,
    }
    if embedding:
        vectors = load_word_vectors(
            dataset.embedding_file, training_set.vocab_size, dataset.vocabulary_file
        )
        network.update(glove=vectors, glove_dim=vectors.shape[1])
    return network


def evaluation(
    dataset: datasets.Dataset, split: str, most: Optional[int], precision: str
) -> Callable[[str], Dict[str, float]]:
    """Return a function that tests a snapshot on the way, see `quick_scores`.

    Raises:
      UserError: the samples of the split are missing, incomplete or damaged, or of
        another vocabulary.
    """
    from util.evaluation.evaluate import quick_scores  # not for most runs
    from util.inference.predictor import Predictor, check_samples

    # Refused now rather than at the first evaluation.
    vocabularies.check_samples(dataset.sample_dir(split), dataset.vocabulary_file)
    dataset.samples(split).read(0)

    def evaluate(snapshot):
        check_samples(snapshot, dataset, split)
        with Predictor(snapshot, precision=precision) as predictor:
            return quick_scores(predictor, dataset, split, most)

    return evaluate


def describe(
    model_class, network, training_set, start, schedule, machine
) -> Dict[str, Any]:
    """Return what run.json says of a run whose model is in the default graph."""
    sizes = {key: value for key, value in network.items() if key != "glove"}
    return {
        "model": model_class.NAME,
        "data_set": training_set.dataset.name,
        "split": training_set.split,
        "samples": training_set.number,
        "batch_size": machine.batch_size,
        "sentences_per_image": training_set.sentences_per_image,
        "steps": schedule.last,
        "network": sizes,
        "model_options": start.state.options,
        "word_vectors": "glove" in network,
        "parameters": _count(
            variable
            for variable in tf.global_variables()
            if model_class.is_weight(variable.op.name)
        ),
        "trained_values": _count(
            variable
            for variable in tf.trainable_variables()
            if is_trained(variable.op.name, network.get("conv5", False))
        ),
        "seed": start.state.seed,
        "devices": machine.devices,
        "workers": machine.workers,
        "precision": machine.precision,
        "xla": machine.xla,
        "versions": versions(),
    }


def _count(variables):
    return int(sum(np.prod(variable.shape.as_list()) for variable in variables))
