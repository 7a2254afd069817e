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
from util.training.feeds import Feed

STEPS_AHEAD = 2  # what to feed is ready for so many steps


class TrainState(NamedTuple):
    """Where a run begins.

    Attributes:
      step: steps taken before.
      seed: of everything that is drawn.
      samples: int, those of the split.
      positions: of the readers of all workers, see `feeds`.
      averages: see `progress.Progress`.
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


class Schedule(NamedTuple):
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


def step_fetches(model) -> Dict[str, Any]:
    """Return what every step runs."""
    return {
        "loss": model.cls_loss,
        "scores": model.pred,
        "target": model.target,
        "learning_rate": model.learning_rate,
        "step": model.train_step,
    }


def all_losses(model) -> Dict[str, Any]:
    """Return what the log has besides the answer's loss, by its key there."""
    losses = {
        f"loss_{name}": loss for name, loss in model.losses.items() if name != "pred"
    }
    return dict(losses, loss_all=model.cls_loss_all)


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
        self._progress = progress.Progress(point.averages)
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
        ahead = contextlib.closing(prefetch_iterator(feed, STEPS_AHEAD))
        with bar, ahead as ready, signals.Listener() as listener:
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
        tells = step % progress.EVERY == 0 or step == self._plan.last
        draws = self._plan.image_steps and step % self._plan.image_steps == 0
        model, fetches, about = self._model, step_fetches(self._model), {}
        losses = all_losses(model) if tells else {}
        fetches.update(losses)
        if tells:  # before the step changes the weights
            about["regularisation"] = float(self._session.run(model.reg_loss))
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
            about.update((key, float(found[key])) for key in losses)
            self._report(found, about)
        if draws and self._log:
            self._log.images(step, feed.samples, found["up"])

    def _note(self, feed, found):
        self._progress.add(found["loss"], found["scores"], found["target"])
        shares = np.array_split(feed.samples, len(self._positions))
        self._positions = [share[-1]["position"] for share in shares]
        self._skipped = sum(share[-1]["skipped"] for share in shares)

    def _report(self, found, about):
        rate = float(found["learning_rate"])
        figures = self._progress.figures()
        _tell(progress.lines(self._step, figures, rate))
        if self._log is None:
            return
        seconds = figures.pop("seconds_a_step")
        sentences = found["scores"].shape[0]
        figures.update(
            about,
            learning_rate=rate,
            sentences_per_s=sentences / seconds,
            memory_mb=progress.peak_memory_mb(),
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
                f"after step {self._step} some weights are no numbers any more: "
                f"{self._advice()}"
            )
        self.snapshot = self._snapshots.save(self._session, self._step, self._state())
        self._last_save = time.monotonic()
        _tell(f"snapshot: {self.snapshot}")

    def _advice(self):
        last = self.snapshot or "none yet"
        return f"the last good snapshot is {last}; a lower learning rate (-lr) may help"

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
            _tell(f"best: {self._snapshots.keep_best(self._step)}")
        self._snapshots.write_state(self._step, self._state())


def _tell(text):
    tqdm.write(text)
    sys.stdout.flush()
