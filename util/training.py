"""Training: samples, network, start, loop, snapshots."""

import contextlib
import glob
import os
import random
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from util import (
    checkpoint,
    cluster,
    datasets,
    evaluation,
    feature_cache,
    im_processing,
    interrupts,
    report,
    run_log,
    text_processing,
    towers,
)
from util.ahead import take_ahead
from util.compat import new_session, release_freed_memory, tf
from util.errors import Stopped, UserError
from util.feeds import Feed, Sample, Source, feeds
from util.inference import Predictor

# Pictures that set the moments of a backbone drawn at random.
CALIBRATION_PICTURES, CALIBRATION_BATCH = 32, 8
STEPS_AHEAD = 2  # what to feed is ready for so many steps


def run(model_class, args) -> None:
    """Train a network and leave snapshots, alone or as a task of a cluster.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      args: options of `trainval_model.py -m train`.

    Raises:
      UserError: missing or bad samples, vectors, backbone or snapshots, snapshots in
        the way, a cache of other features, or a bad TF_CONFIG.
      Stopped: training makes no sense any more, or a process of the job died.
    """
    job = cluster.read()
    source = Source.of(args)
    devices = len(args.gpus.split(","))
    workers = len(job.workers) if job else 1
    if args.batch_size % (workers * devices):
        raise UserError(
            "-bs {} sentences cannot be shared by {} workers with {} devices each: "
            "choose a multiple".format(args.batch_size, workers, devices)
        )
    share = args.batch_size // workers
    server = job and cluster.start_server(job, args.threads, devices)
    if job is None or job.is_chief:
        with cluster.losses_of_tasks():
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


def _train(model_class, args, source: Source, machines: Machines) -> None:
    """Be the process that takes the steps; see `run`."""
    point = resume_point(args, source, machines.workers)
    backbone = None if point.step or args.init_from else backbone_file(args)
    options = network_options(args, source)
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
        if point.step:
            checkpoint.load(session, point.snapshot)
            print("resumed: {}".format(point.snapshot), flush=True)
        else:
            start(session, model, backbone, source, point.seed)
            if args.init_from:
                print(init_from(session, args), flush=True)
        towers.copy_frozen(session)
        snapshots = checkpoint.Snapshots(args.folder, args.dataset)
        snapshots.copy_beside(datasets.vocabulary_file(args.dataset, args.data))
        log = stack.enter_context(run_log.RunLog(args.folder, point.step))
        log.begin(describe(args, options, source, point, machines), point.step)
        samples = all_samples(session, source, point, machines, chief)
        cache = None
        if args.cache_features:
            cache = feature_cache.open_cache(session, model, args)
        feed = stack.enter_context(contextlib.closing(feeds(model, samples, cache)))
        loop = Loop(session, model, snapshots, plan(args, model_class), point, log)
        try:
            loop.run(feed)
        finally:
            if chief:
                with contextlib.suppress(tf.errors.OpError):
                    chief.end(session)


class Point(NamedTuple):
    """Where a run begins.

    Attributes:
      step: steps taken before.
      seed: of everything that is drawn.
      samples: int, those of the split.
      positions: of the readers of all workers, see `feeds`.
      averages: see `report.Progress`.
      best: (overall IoU, step) of the best evaluation.
      evaluated: step of the last evaluation.
      snapshot: path; None at step 0.
    """

    step: int
    seed: int
    samples: int
    positions: List[int]
    averages: Optional[Dict[str, float]] = None
    best: Optional[List[float]] = None
    evaluated: int = 0
    snapshot: Optional[str] = None


def resume_point(args, source: Source, workers: int) -> Point:
    """Return where to begin: at the newest whole snapshot with --resume.

    Raises:
      UserError: there are snapshots without --resume, or ones that no state belongs
        to, or the samples are others than those of the run.
    """
    there = checkpoint.steps(args.folder, args.dataset)
    if there and not args.resume:
        raise UserError(
            "{} has snapshots of {} already: go on with --resume, choose another "
            "folder with -f, or move them away".format(args.folder, args.dataset)
        )
    found = checkpoint.newest(args.folder, args.dataset)
    if found is None:
        if there:
            raise UserError(
                "the snapshots in {} have no .state.json to go on from: start a new "
                "run from one with --init-from and another -f".format(args.folder)
            )
        drawn = random.SystemRandom().randrange(2**32)
        seed = drawn if args.seed is None else args.seed
        return Point(0, seed, source.number, [0] * workers)
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
    return Point(snapshot=found, **state)


def all_samples(session, source, point, machines, chief) -> Iterator[Sample]:
    """Return the samples of all workers from `point` on."""
    workers = machines.workers
    share = (0, workers, machines.share)
    own = source.samples(point.seed, point.positions[0], share)
    if chief is None:
        return own
    chief.begin(session, point.seed, point.positions)
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
        "versions": evaluation.versions(),
    }


def network_options(args, source: Source) -> Dict[str, Any]:
    """Return the arguments of `LSTM_model` for training, save the batch size.

    Raises:
      UserError: the word vectors or the snapshot of --init-from are missing or do not
        fit.
    """
    dataset = datasets.DATASETS[args.dataset]
    sizes = {}
    if args.init_from:
        sizes = checkpoint.sizes(checkpoint.without_ending(args.init_from))
    channels = args.v_emb_dim or sizes.get("v_emb_dim", dataset.v_emb_dim)
    options = {
        "H": source.rows,
        "W": source.columns,
        "vf_h": source.rows // 8,
        "vf_w": source.columns // 8,
        "num_steps": text_processing.MAX_WORDS,
        "vocab_size": source.vocab_size,
        "v_emb_dim": channels,
        "rnn_size": channels,
        "mlp_dim": args.mlp_dim or sizes.get("mlp_dim", dataset.mlp_dim),
        "start_lr": args.learning_rate,
        "lr_decay_step": args.decay_steps,
        "weight_decay": args.weight_decay,
        "optimizer": args.optimizer,
        "keep_prob_rnn": args.keep_prob_rnn,
        "keep_prob_emb": args.keep_prob_emb,
        "conv5": args.conv5,
    }
    if "glove_dim" in sizes:
        options["glove_dim"] = sizes["glove_dim"]
    if args.embedding:
        path = datasets.embedding_file(args.dataset, args.data)
        vectors = load_word_vectors(path, source.vocab_size)
        options.update(glove=vectors, glove_dim=vectors.shape[1])
    return options


def load_word_vectors(path: str, vocab_size: int) -> np.ndarray:
    """Load the initial word vectors.

    Returns:
      float32 [vocab_size, G].

    Raises:
      UserError: the file is missing, damaged, or of another vocabulary.
    """
    try:
        vectors = np.load(path, allow_pickle=False).astype(np.float32)
    except Exception as error:  # numpy raises almost anything on damaged files
        raise UserError(
            "cannot read the word vectors {}: make them with python -m util.glove, or "
            "leave out -emb".format(path)
        ) from error
    if vectors.ndim != 2 or len(vectors) != vocab_size:
        raise UserError(
            "{} holds an array of {}, but the vocabulary has {} words: make it anew "
            "with python -m util.glove".format(path, vectors.shape, vocab_size)
        )
    if not np.isfinite(vectors).all():
        raise UserError(
            "{} holds values that are no numbers: make it anew with python -m "
            "util.glove".format(path)
        )
    return vectors


def backbone_file(args) -> Optional[str]:
    """Return the path of the backbone's first weights; None: they are drawn.

    Raises:
      UserError: there is no such file.
    """
    if args.backbone == "random":
        return None
    path = datasets.backbone_file(args.data)
    if not glob.glob(glob.escape(path) + "*"):  # one file or several, by its format
        raise UserError(
            "there are no backbone weights {}; data/README.md says where they come "
            "from, and --backbone random does without them".format(path)
        )
    return path


def start(session, model, backbone: Optional[str], source: Source, seed: int) -> None:
    """Initialise all variables and start from a backbone that can see.

    Args:
      session: of the model's graph.
      model: in mode "train".
      backbone: path of its weights; None draws them.
      source: its pictures calibrate a backbone that is drawn.
      seed: chooses them.
    """
    session.run(tf.global_variables_initializer())
    if backbone is None:
        with contextlib.closing(source.samples(seed)) as samples:
            pictures = [next(samples)["im_batch"] for _ in range(CALIBRATION_PICTURES)]
        calibrate(session, model, pictures)
        print("backbone: drawn at random, moments measured on training pictures")
    else:
        print(checkpoint.load_backbone(session, backbone))
    release_freed_memory()  # what drawing all variables at once took


def calibrate(session, model, pictures: List[np.ndarray]) -> None:
    """Set the stored moments of a backbone drawn at random.

    Args:
      pictures: a few uint8 [H, W, 3], of the network's size.
    """
    model.calibrate_backbone(
        session,
        (
            im_processing.to_network_input(
                np.stack(pictures[first : first + CALIBRATION_BATCH])
            )
            for first in range(0, len(pictures), CALIBRATION_BATCH)
        ),
    )


def init_from(session, args) -> str:
    """Load the weights of another run's snapshot and return a line about it.

    Where the vocabularies differ, words that both know keep their vectors.
    """
    snapshot = checkpoint.without_ending(args.init_from)
    words = text_processing.read_words(
        datasets.vocabulary_file(args.dataset, args.data)
    )
    beside = os.path.join(os.path.dirname(snapshot), checkpoint.VOCABULARY)
    path = args.init_vocabulary or (beside if os.path.exists(beside) else None)
    known = text_processing.read_words(path) if path else None
    return checkpoint.load_weights(session, snapshot, words, known)


class Plan(NamedTuple):
    """When a run does what besides taking steps.

    Attributes:
      last: the step it ends with.
      every, minutes: it leaves a snapshot after so many steps, and minutes.
      image_steps: it draws the masks of a step.
      eval_steps: it evaluates.
      evaluate: function of a snapshot's path that gives scores: "overall_iou", ...
      about: what is evaluated, for the log.
    """

    last: int
    every: int
    minutes: Optional[float] = None
    image_steps: Optional[int] = None
    eval_steps: Optional[int] = None
    evaluate: Optional[Callable[[str], Dict[str, float]]] = None
    about: Dict[str, Any] = {}  # noqa: RUF012


def plan(args, model_class) -> Plan:
    """Return the plan of the options."""

    def evaluate(snapshot):
        with Predictor(model_class, snapshot, args.precision) as predictor:
            return evaluation.quick_scores(predictor, args)

    return Plan(
        last=min(args.iteration, args.stop),
        every=args.snapshot,
        minutes=args.save_minutes,
        image_steps=args.image_steps,
        eval_steps=args.eval_steps,
        evaluate=evaluate,
        about={"split": args.eval_set},
    )


def step_fetches(model) -> Dict[str, Any]:
    """Return what every step runs."""
    return {
        "loss": model.cls_loss,
        "scores": model.pred,
        "target": model.target,
        "learning_rate": model.learning_rate,
        "step": model.train_step,
    }


class Loop:
    """Takes training steps, tells how they go and saves.

    Args:
      session: of the model's graph, ready to train.
      model: in mode "train".
      snapshots: where to save.
      plan: what to do when.
      point: where to begin.
      log: where to write what goes on; None: nowhere.
    """

    def __init__(self, session, model, snapshots, plan, point, log=None) -> None:
        self._session, self._model, self._snapshots = session, model, snapshots
        self._plan, self._log = plan, log
        self._step, self._seed, self._samples = point.step, point.seed, point.samples
        self._best, self._evaluated = point.best, point.evaluated
        self._positions = list(point.positions)
        self._progress = report.Progress(point.averages)
        self._skipped, self._last_save = 0, time.monotonic()
        self.snapshot = point.snapshot

    def run(self, feed: Iterator[Feed]) -> str:
        """Take the steps that are left; a signal to stop saves and ends them early.

        A thread takes from `feed` ahead, so that the network does not wait for it.

        Returns:
          The path of the last snapshot.

        Raises:
          Stopped: a loss or a weight is no number any more.
        """
        plan, bar = (
            self._plan,
            tqdm(total=self._plan.last, initial=self._step, unit="step", disable=None),
        )
        ahead = contextlib.closing(take_ahead(feed, STEPS_AHEAD))
        with bar, ahead as ready, interrupts.Listener() as listener:
            if self._is_due(plan.eval_steps) and self._evaluated != self._step:
                self._evaluate()
            while self._step < plan.last and not listener.heard:
                self._take_step(next(ready))
                bar.update()
                if self._must_save(listener.heard):
                    self._save()
                if self._is_due(plan.eval_steps):
                    self._evaluate()
            if listener.heard:
                _tell("stopped by a signal: go on with --resume")
        return self.snapshot

    def _is_due(self, every):
        return bool(every and self._step and self._step % every == 0)

    def _take_step(self, feed):
        step = self._step + 1
        tells = step % report.EVERY == 0 or step == self._plan.last
        draws = self._plan.image_steps and step % self._plan.image_steps == 0
        model, fetches, about = self._model, step_fetches(self._model), {}
        if tells:  # before the step changes the weights
            about["regularisation"] = float(self._session.run(model.reg_loss))
            fetches.update(
                loss_c5=model.cls_loss_c5,
                loss_c4=model.cls_loss_c4,
                loss_c3=model.cls_loss_c3,
                loss_all=model.cls_loss_all,
            )
        if draws:
            fetches["up"] = model.up
        values = dict(feed.values)
        values[model.noise_seed] = [self._seed, step]
        found = self._session.run(fetches, values)
        if not np.isfinite(found["loss"]):
            raise Stopped(
                "the loss of step {} is {} (samples {}): {}".format(
                    step,
                    found["loss"],
                    ", ".join(str(sample["number"]) for sample in feed.samples),
                    self._advice(),
                )
            )
        self._step = step
        self._note(feed, found)
        if tells:
            keys = ("loss_c5", "loss_c4", "loss_c3", "loss_all")
            about.update((key, float(found[key])) for key in keys)
            self._report(found, about)
        if draws and self._log:
            self._log.pictures(step, feed.samples, found["up"])

    def _note(self, feed, found):
        self._progress.add(found["loss"], found["scores"], found["target"])
        shares = np.array_split(feed.samples, len(self._positions))
        self._positions = [share[-1]["position"] for share in shares]
        self._skipped = sum(share[-1]["skipped"] for share in shares)

    def _report(self, found, about):
        rate = float(found["learning_rate"])
        figures = self._progress.figures()
        _tell(report.lines(self._step, figures, rate))
        if self._log is None:
            return
        seconds = figures.pop("seconds_a_step")
        sentences = found["scores"].shape[0]
        figures.update(
            about,
            learning_rate=rate,
            sentences_per_s=sentences / seconds,
            memory_mb=report.peak_memory_mb(),
            skipped=self._skipped,
        )
        self._log.log(self._step, figures)

    def _must_save(self, stops):
        plan = self._plan
        minutes = (time.monotonic() - self._last_save) / 60
        return (
            self._step % plan.every == 0
            or self._step == plan.last
            or stops
            or self._is_due(plan.eval_steps)
            or plan.minutes is not None
            and minutes >= plan.minutes
        )

    def _state(self):
        return {
            "step": self._step,
            "seed": self._seed,
            "samples": self._samples,
            "positions": self._positions,
            "averages": self._progress.averages(),
            "best": self._best,
            "evaluated": self._evaluated,
        }

    def _save(self):
        if not self._snapshots.are_finite(self._session):
            raise Stopped(
                "after step {} some weights are no numbers any more: {}".format(
                    self._step, self._advice()
                )
            )
        self.snapshot = self._snapshots.save(self._session, self._step, self._state())
        self._last_save = time.monotonic()
        _tell("snapshot: {}".format(self.snapshot))

    def _advice(self):
        last = self.snapshot or "none yet"
        return (
            "the last good snapshot is {}; a lower learning rate (-lr) may help".format(
                last
            )
        )

    def _evaluate(self):
        scores = self._plan.evaluate(self.snapshot)
        self._evaluated = self._step
        _tell(
            "evaluation at step {}: overall IoU = {overall_iou:.4f}; mean IoU = "
            "{mean_iou:.4f}".format(self._step, **scores)
        )
        if self._log:
            self._log.evaluation(self._step, scores, **self._plan.about)
        if self._best is None or scores["overall_iou"] > self._best[0]:
            self._best = [scores["overall_iou"], self._step]
            _tell("best: {}".format(self._snapshots.keep_best(self._step)))
        self._snapshots.write_state(self._step, self._state())


def _tell(text):
    tqdm.write(text)
    sys.stdout.flush()
