"""The loop of training: steps, and what happens between them."""

import contextlib
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from util.core import signals
from util.core.errors import Stopped
from util.core.parallel import prefetch_iterator
from util.training import progress
from util.training.feeds import Feed, staged

STEPS_AHEAD = 2  # what to feed is ready for so many steps


class TrainState(NamedTuple):
    """Where a run is; all but the path of the snapshot is saved with it.

    Attributes:
      step: steps taken before.
      seed: of everything that is drawn.
      samples: int, those of the split.
      positions: of the readers of all workers, see `feeds`.
      options: of the model, see `models.OPTIONS`: only those that are given.
      averages: see `progress.Progress`.
      best: (overall IoU, step) of the best evaluation.
      evaluated: step of the last evaluation.
      sentences_per_image: what the order of the samples depends on, see
        `feeds.TrainingSet`.
      snapshot: path of the last one; None: there is none yet.
    """

    step: int
    seed: int
    samples: int
    positions: List[int]
    options: Dict[str, str] = {}  # noqa: RUF012
    averages: Optional[Dict[str, float]] = None
    best: Optional[List[float]] = None
    evaluated: int = 0
    sentences_per_image: int = 1
    snapshot: Optional[str] = None

    def saved(self) -> Dict[str, Any]:
        """Return what is saved with a snapshot, as JSON can hold it."""
        values = self._asdict()
        del values["snapshot"]
        return dict(values)


class Schedule(NamedTuple):
    """When a run does what between its steps.

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


def steps_ahead(session, model, feed: Iterator[Feed]) -> Iterator[Feed]:
    """Let a thread prefetch from `feed`, and put on the device what waits there."""
    return prefetch_iterator(staged(session, model, feed), STEPS_AHEAD)


def step_fetches(model) -> Dict[str, Any]:
    """Return what every step runs."""
    return {
        "loss": model.cls_loss,
        "scores": model.printed,
        "target": model.target,
        "learning_rate": model.learning_rate,
        "step": model.train_step,
    }


def all_losses(model) -> Dict[str, Any]:
    """Return what the log has besides the printed loss, by its key there."""
    losses = {
        name if "loss" in name else f"loss_{name}": loss
        for name, loss in list(model.losses.items())[1:]
    }
    return dict(losses, loss_all=model.cls_loss_all)


class Loop:
    """Takes training steps, reports how they go and saves.

    Args:
      session: of the model's graph, ready to train.
      model: in mode "train".
      snapshots: where to save.
      schedule: when to do what.
      state: where to begin.
      log: what is written of the run; None: nothing.

    Attributes:
      state: TrainState after the last step.
    """

    def __init__(self, session, model, snapshots, schedule, state, log=None) -> None:
        self._session, self._model, self._snapshots = session, model, snapshots
        self._schedule, self._log, self.state = schedule, log, state
        self._progress = progress.Progress(state.averages)
        self._skipped, self._last_save = 0, time.monotonic()

    def run(self, feed: Iterator[Feed]) -> str:
        """Take the steps that are left; a signal to stop saves and ends them early.

        The network does not wait for `feed`, see `steps_ahead`.

        Returns:
          The path of the last snapshot.

        Raises:
          Stopped: a loss or a weight is NaN or infinite.
        """
        last, eval_steps = self._schedule.last, self._schedule.eval_steps
        begin = self.state.step
        bar = tqdm(total=last, initial=begin, unit="step", disable=None)
        steps = steps_ahead(self._session, self._model, feed)
        prefetched = contextlib.closing(steps)
        with bar, prefetched as ready, signals.Listener() as listener:
            if self._is_due(eval_steps) and self.state.evaluated != begin:
                self._evaluate()
            while self.state.step < last and not listener.heard:
                self._take_step(next(ready))
                bar.update()
                if self._must_save(listener.heard):
                    self._save()
                if self._is_due(eval_steps):
                    self._evaluate()
            if listener.heard:
                _print("stopped by a signal: go on with --resume")
        return self.state.snapshot

    def _is_due(self, every):
        return _divides(every, self.state.step)

    def _take_step(self, feed):
        step, model = self.state.step + 1, self._model
        reports = step == self._schedule.last or _divides(progress.EVERY, step)
        draws = self._log and _divides(self._schedule.image_steps, step)
        fetches, losses, figures = step_fetches(model), {}, {}
        if reports:  # before the step changes the weights
            figures["regularisation"] = float(self._session.run(model.reg_loss))
            losses = all_losses(model)
        if draws:
            fetches["up"] = model.up
        values = dict(feed.values)
        values[model.noise_seed] = [self.state.seed, step]
        outputs = self._session.run(dict(fetches, **losses), values)
        self._check_loss(step, outputs["loss"], feed)
        self._note(step, feed, outputs)
        if reports:
            figures.update((key, float(outputs[key])) for key in losses)
            self._report(outputs, figures)
        if draws:
            self._log.images(step, feed.samples, outputs["up"])

    def _check_loss(self, step, loss, feed):
        if not np.isfinite(loss):
            numbers = ", ".join(str(sample["number"]) for sample in feed.samples)
            raise Stopped(
                f"the loss of step {step} is {loss} (samples {numbers}): "
                + self._advice()
            )

    def _note(self, step, feed, outputs):
        self._progress.add(outputs["loss"], outputs["scores"], outputs["target"])
        shards = np.array_split(feed.samples, len(self.state.positions))
        positions = [shard[-1]["position"] for shard in shards]
        self._skipped = sum(shard[-1]["skipped"] for shard in shards)
        self.state = self.state._replace(step=step, positions=positions)

    def _report(self, outputs, figures):
        """Print and log how the training goes; `figures`: what else is logged."""
        step, rate = self.state.step, float(outputs["learning_rate"])
        averages, seconds = self._progress.figures(), self._progress.lap()
        _print(progress.lines(step, averages, rate, seconds))
        if self._log is None:
            return
        figures = dict(
            averages,
            **figures,
            learning_rate=rate,
            sentences_per_s=outputs["scores"].shape[0] / seconds,
            memory_mb=progress.peak_memory_mb(),
            skipped=self._skipped,
        )
        self._log.log(step, figures)

    def _must_save(self, stops):
        schedule, step = self._schedule, self.state.step
        minutes = (time.monotonic() - self._last_save) / 60
        return (
            step % schedule.every == 0
            or step == schedule.last
            or stops
            or self._is_due(schedule.eval_steps)
            or schedule.minutes is not None
            and minutes >= schedule.minutes
        )

    def _save(self):
        step = self.state.step
        if not self._snapshots.are_finite(self._session):
            raise Stopped(
                f"after step {step} some weights are NaN or infinite: {self._advice()}"
            )
        self.state = self.state._replace(averages=self._progress.averages())
        snapshot = self._snapshots.save(self._session, step, self.state.saved())
        self.state = self.state._replace(snapshot=snapshot)
        self._last_save = time.monotonic()
        _print(f"snapshot: {snapshot}")

    def _advice(self):
        last = self.state.snapshot or "none yet"
        return f"the last good snapshot is {last}; a lower learning rate (-lr) may help"

    def _evaluate(self):
        """Test the last snapshot, which is of the last step."""
        step, best = self.state.step, self.state.best
        try:
            scores = self._schedule.evaluate(self.state.snapshot)
        except Exception as error:  # the weights are what counts, they are saved
            what = " ".join(f"{type(error).__name__}: {error}".split())
            _print(f"warning: the evaluation at step {step} failed ({what})")
            return
        _print(
            "evaluation at step {}: overall IoU = {overall_iou:.4f}; mean IoU = "
            "{mean_iou:.4f} (oIoU; mIoU)".format(step, **scores)
        )
        if self._log:
            self._log.evaluation(step, scores, **self._schedule.about)
        if best is None or scores["overall_iou"] > best[0]:
            best = [scores["overall_iou"], step]
            _print(f"best: {self._snapshots.keep_best(step)}")
        self.state = self.state._replace(evaluated=step, best=best)
        self._snapshots.write_state(step, self.state.saved())


def _divides(every, step):
    return bool(every and step and step % every == 0)


def _print(text):
    tqdm.write(text)
    sys.stdout.flush()
