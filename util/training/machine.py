"""Where a network is trained: on this machine; `cluster.Task` is one of several."""

import contextlib
from typing import Any, Callable, Iterator, List, Optional, Tuple

from util.core.errors import UserError
from util.graph import towers
from util.graph.session import gpus, new_session, require_trainable
from util.training.feeds import Sample, TrainingSet
from util.training.loop import TrainState


class Machine:
    """This machine alone.

    Args:
      batch_size: int, sentences of a step.
      devices: int, how many of each worker a step is spread over.
      threads, precision: see `session.new_session`.
      workers: int, processes that share a step.
      xla: bool, see `session.new_session`.

    Attributes:
      all of the arguments; is_chief: bool, this process takes the steps.

    Raises:
      UserError: workers and devices cannot share a step evenly, or nothing can be
        trained in the precision.
    """

    is_chief = True

    def __init__(
        self,
        batch_size: int = 1,
        devices: int = 1,
        threads: Optional[int] = None,
        precision: str = "float32",
        workers: int = 1,
        xla: bool = False,
    ) -> None:
        require_trainable(precision)
        if batch_size % (workers * devices):
            raise UserError(
                f"-bs {batch_size} sentences cannot be shared by {workers} workers "
                f"with {devices} devices each: choose a multiple"
            )
        self.batch_size, self.devices, self.workers = batch_size, devices, workers
        self.threads, self.precision, self.xla = threads, precision, xla

    def check_fits(self, training_set: TrainingSet) -> None:
        """Refuse groups of sentences that no device has room for.

        Raises:
          UserError: --sentences-per-image is more than the sentences of a device.
        """
        room, most = self.shard_size // self.devices, training_set.sentences_per_image
        if most > room:
            raise UserError(
                f"--sentences-per-image {most} does not fit: a device has {room} of "
                f"the -bs {self.batch_size} sentences of a step"
            )

    @property
    def shard_size(self) -> int:
        """How many sentences of a step each worker has."""
        return self.batch_size // self.workers

    def towers(self, conv5: bool) -> List[towers.Tower]:
        """Return what spreads a batch over the devices."""
        return towers.local_towers(self.devices)

    @property
    def stages(self) -> bool:
        """Whether inputs shall wait on the device, see `base.Arguments`."""
        return bool(gpus()) and self.devices == 1

    def placement(self) -> Optional[Callable]:
        """Return the device of what belongs to no tower, for tf.device."""
        return towers.local_placement(self.devices)

    def connect(self, form: Tuple[int, int, int]) -> None:
        """Add to the graph what brings samples, see `TrainingSet.form`, from others."""

    @contextlib.contextmanager
    def session(self, model) -> Iterator[Any]:
        """Open a session of the default graph, that of a `models.base.Model`."""
        with new_session(
            precision=self.precision,
            threads=self.threads,
            cpus=self.devices,
            xla=self.xla,
            side_by_side=model.is_small and not gpus(),
        ) as session:
            yield session

    @contextlib.contextmanager
    def samples(
        self, session, training_set: TrainingSet, state: TrainState
    ) -> Iterator[Iterator[Sample]]:
        """Give the samples of all workers, those that come after `state`."""
        with contextlib.closing(
            training_set.samples(state.seed, state.positions[0])
        ) as samples:
            yield samples
