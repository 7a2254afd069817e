"""Training: samples, network, machines, start."""

import contextlib
import random
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from util import models
from util.core.errors import UserError
from util.data import datasets, text_processing
from util.evaluation.evaluate import quick_scores
from util.graph import checkpoint, towers
from util.graph.compat import tf
from util.graph.session import new_session, versions
from util.inference.predictor import Predictor
from util.models.base import grid_sizes
from util.training import cluster, feature_cache, run_log
from util.training.feeds import Sample, TrainingSet, feeds
from util.training.loop import Loop, Schedule, TrainState
from util.training.snapshots import Snapshots
from util.training.start import backbone_file, begin, load_word_vectors


def run(model_class, args) -> None:
    """Train a network and leave snapshots, alone or as a task of a cluster.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      args: options of `trainval_model.py -m train`.

    Raises:
      UserError: missing or bad samples, vectors, backbone or snapshots, snapshots in
        the way, a cache of other features, or a bad TF_CONFIG.
      Stopped: training makes no sense any more. (When a process of the job died this
        one ends too, see `cluster.end_with_others`.)
    """
    job = cluster.read()
    source = TrainingSet.of(args)
    devices = len(args.gpus.split(","))
    workers = len(job.workers) if job else 1
    if args.batch_size % (workers * devices):
        raise UserError(
            f"-bs {args.batch_size} sentences cannot be shared by {workers} workers "
            f"with {devices} devices each: "
            "choose a multiple"
        )
    share = args.batch_size // workers
    server = job and cluster.start_server(job, args.threads, devices)
    if job is None or job.is_chief:
        _train(model_class, args, source, Machines(job, server, devices, share))
        return
    number = job.workers.index(job.task) if job.job != "ps" else None

    def samples(seed, position):
        return source.samples(seed, position, (number, workers, share))

    cluster.serve(job, server, source.form, samples)


class Machines(NamedTuple):
    """Where a network is trained.

    Attributes:
      job: the cluster; None: this machine alone.
      server: its server in this process.
      devices: int, of each worker.
      share: int, sentences of a step for each worker.
    """

    job: Optional[cluster.Cluster]
    server: Any
    devices: int
    share: int

    @property
    def workers(self) -> int:
        """How many processes compute."""
        return len(self.job.workers) if self.job else 1

    def towers(self, conv5: bool) -> List[towers.Tower]:
        """Return what spreads a batch over the devices."""
        if self.job is None:
            return towers.local_towers(self.devices)
        return towers.remote_towers(
            self.job.workers,
            len(self.job.addresses["ps"]),
            self.devices,
            lambda name: not conv5 and name.startswith(checkpoint.BACKBONE_PREFIXES),
        )

    def placement(self):
        """Return the device of what belongs to no tower, for tf.device."""
        if self.job is None:
            return towers.local_placement(self.devices)
        return towers.remote_placement(
            self.job.workers[0], len(self.job.addresses["ps"])
        )

    def session(self, args):
        """Open a session of the default graph."""
        target = self.server.target if self.server else ""
        return new_session(
            precision=args.precision,
            threads=args.threads,
            cpus=self.devices,
            target=target,
        )


def _train(model_class, args, source: TrainingSet, machines: Machines) -> None:
    """Be the process that takes the steps; see `run`."""
    point = resume_state(args, source, machines.workers)
    if not (point.snapshot or args.init_from):
        backbone_file(args)  # what is missing is told before any work
    options = network_options(model_class, args, source)
    if args.eval_steps:
        datasets.find_batch_dir(args.dataset, args.eval_set, args.data, args.batches)
    with contextlib.ExitStack() as stack:
        stack.enter_context(tf.Graph().as_default())
        stack.enter_context(tf.device(machines.placement()))
        tf.set_random_seed(point.seed)
        model = model_class(
            batch_size=args.batch_size,
            mode="train",
            towers=machines.towers(args.conv5),
            **options,
        )
        chief = None
        if machines.job:
            chief = cluster.Chief(machines.job, source.form, machines.share)
        session = stack.enter_context(machines.session(args))
        stack.enter_context(cluster.end_with_others())
        begin(session, model, args, source, point)
        snapshots = Snapshots(args.folder, args.dataset)
        snapshots.copy_beside(datasets.vocabulary_file(args.dataset, args.data))
        log = stack.enter_context(run_log.RunLog(args.folder, point.step))
        log.begin(describe(args, options, source, point, machines), point.step)
        samples = all_samples(session, source, point, machines, chief)
        cache = None
        if args.cache_features:
            cache = feature_cache.open_cache(
                session,
                model,
                args.cache_features,
                args.precision,
                args.cache_dtype,
                args.cache_size,
            )
        feed = stack.enter_context(contextlib.closing(feeds(model, samples, cache)))
        loop = Loop(session, model, snapshots, plan(args), point, log)
        if chief:
            chief.begin(session, point.seed, point.positions)
            stack.callback(chief.end, session)
        loop.run(feed)


def resume_state(args, source: TrainingSet, workers: int) -> TrainState:
    """Return where to begin: at the newest whole snapshot with --resume.

    Raises:
      UserError: there are snapshots without --resume, or ones that no state belongs
        to, or the samples are others than those of the run.
    """
    there = checkpoint.steps(args.folder, args.dataset)
    if there and not args.resume:
        raise UserError(
            f"{args.folder} has snapshots of {args.dataset} already: go on with "
            "--resume, choose another "
            "folder with -f, or move them away"
        )
    found = checkpoint.newest(args.folder, args.dataset)
    if found is None:
        if there:
            raise UserError(
                f"the snapshots in {args.folder} have no .state.json to go on from: "
                "start a new "
                "run from one with --init-from and another -f"
            )
        drawn = random.SystemRandom().randrange(2**32)
        seed = drawn if args.seed is None else args.seed
        return TrainState(0, seed, source.number, [0] * workers)
    state = checkpoint.read_state(found)
    if state["samples"] != source.number:
        raise UserError(
            "{} was trained on {} samples, but {} has {}: build them as they were, or "
            "start a new run with --init-from".format(
                found, state["samples"], source.folder, source.number
            )
        )
    if len(state["positions"]) != workers:
        state["positions"] = [max(state["positions"])] * workers
    return TrainState(snapshot=found, **state)


def all_samples(session, source, point, machines, chief) -> Iterator[Sample]:
    """Return the samples of all workers from `point` on."""
    workers = machines.workers
    share = (0, workers, machines.share)
    own = source.samples(point.seed, point.positions[0], share)
    if chief is None:
        return own
    return chief.samples(session, own)


def describe(args, options, source, point, machines) -> Dict[str, Any]:
    """Return what run.json says of a run."""
    sizes = {key: value for key, value in options.items() if key != "glove"}
    return {
        "command": run_log.command_line(),
        "data_set": args.dataset,
        "split": args.split,
        "samples": source.number,
        "batch_size": args.batch_size,
        "steps": min(args.iteration, args.stop),
        "network": sizes,
        "word_vectors": "glove" in options,
        "trained_values": int(
            sum(np.prod(v.shape.as_list()) for v in tf.trainable_variables())
        ),
        "seed": point.seed,
        "devices": machines.devices,
        "workers": machines.workers,
        "precision": args.precision,
        "versions": versions(),
    }


def network_options(model_class, args, source: TrainingSet) -> Dict[str, Any]:
    """Return the arguments of a model for training, save the batch size.

    Raises:
      UserError: the word vectors or the snapshot of --init-from are missing or do not
        fit, or the model has no use for word vectors.
    """
    if args.embedding and "glove" not in model_class.Arguments._fields:
        raise UserError(f"{model_class.NAME} takes no word vectors: leave out -emb")
    channels = model_class.defaults(datasets.get(args.dataset, args.data))
    sizes = {}
    if args.init_from:
        snapshot = checkpoint.without_ending(args.init_from)
        _, sizes = models.of_snapshot(snapshot, model_class.NAME)
        channels = {name: sizes[name] for name in channels}
    chosen = {name: getattr(args, name) for name in channels}
    channels.update((name, size) for name, size in chosen.items() if size)
    options = {
        **sizes,
        **grid_sizes(source.rows, source.columns),
        "num_steps": text_processing.MAX_WORDS,
        "vocab_size": source.vocab_size,
        **model_class.channels(**channels),
        "start_lr": args.learning_rate,
        "lr_decay_step": args.decay_steps,
        "weight_decay": args.weight_decay,
        "keep_prob_rnn": args.keep_prob_rnn,
        "keep_prob_emb": args.keep_prob_emb,
        "conv5": args.conv5,
    }
    if args.embedding:
        path = datasets.embedding_file(args.dataset, args.data)
        vectors = load_word_vectors(path, source.vocab_size)
        options.update(glove=vectors, glove_dim=vectors.shape[1])
    return options


def plan(args) -> Schedule:
    """Return the plan of the options."""
    dataset = datasets.get(args.dataset, args.data, args.batches)

    def evaluate(snapshot):
        with Predictor(snapshot, precision=args.precision) as predictor:
            return quick_scores(predictor, dataset, args.eval_set, args.eval_samples)

    return Schedule(
        last=min(args.iteration, args.stop),
        every=args.snapshot,
        minutes=args.save_minutes,
        image_steps=args.image_steps,
        eval_steps=args.eval_steps,
        evaluate=evaluate,
        about={"split": args.eval_set},
    )
