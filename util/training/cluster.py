"""Several machines: one training job on TensorFlow's own distributed runtime.

The variable TF_CONFIG, as Kubernetes' training operators and launchers for Slurm set
it, says which processes make the job and which of them this one is. The chief (worker 0
where none is named so) builds the one graph, takes the steps and writes all files. The
other workers compute their part of each step and read their shard of the samples. The
parameter servers (`ps`) hold the variables.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from deeplab_resnet import weights
from util.core import signals
from util.core.errors import UserError
from util.core.surroundings import cores
from util.data import vocabularies
from util.data.data_reader import Shard
from util.graph import towers
from util.graph.compat import tf
from util.graph.session import new_session, session_config, switch_tf32
from util.training.feeds import Sample, TrainingSet
from util.training.loop import TrainState
from util.training.machine import Machine

SENDERS = 4  # threads at least that start operations
READY = 8  # samples that a worker keeps
PING_SECONDS, PINGS = 1.0, 5  # unanswered ones until a process counts as dead
LAST_CALL_SECONDS = 10  # until the session that is closed has ended it
JOBS = ("chief", "worker", "ps")


class Cluster(NamedTuple):
    """The processes of a job.

    Attributes:
      addresses: "chief", "worker", "ps" -> list of "host:port".
      job, index: which one this process is.
    """

    addresses: Dict[str, List[str]]
    job: str
    index: int

    @property
    def workers(self) -> List[str]:
        """The tasks that compute, the chief first."""
        return [
            f"/job:{job}/task:{index}"
            for job in ("chief", "worker")
            for index in range(len(self.addresses.get(job, [])))
        ]

    @property
    def task(self) -> str:
        """This one, as `workers` has it."""
        return f"/job:{self.job}/task:{self.index}"

    @property
    def is_chief(self) -> bool:
        """Whether this process takes the steps."""
        return self.task == self.workers[0]

    @property
    def chief_address(self) -> str:
        """The chief's "host:port"."""
        return (self.addresses.get("chief") or self.addresses["worker"])[0]

    @property
    def servants(self) -> List[str]:
        """All tasks but the chief."""
        servers = range(len(self.addresses["ps"]))
        return self.workers[1:] + [f"/job:ps/task:{i}" for i in servers]


def read(text: Optional[str] = None) -> Optional[Cluster]:
    """Return what TF_CONFIG says; None: it is not set, or names this process alone.

    Args:
      text: its value; None: that of this process.

    Raises:
      UserError: it is not what the convention says.
    """
    text = os.environ.get("TF_CONFIG", "") if text is None else text
    if not text.strip():
        return None
    try:
        config = json.loads(text)
        addresses = {job: list(them) for job, them in config["cluster"].items()}
        job, index = config["task"]["type"], int(config["task"]["index"])
        known = set(addresses) <= set(JOBS) and all(
            isinstance(one, str) and ":" in one
            for them in addresses.values()
            for one in them
        )
        if not known or index not in range(len(addresses[job])):
            raise ValueError("unknown job, address or index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            'TF_CONFIG is not of the form {"cluster": {"ps": ["host:port"], '
            '"worker": ["host:port", ...]}, "task": {"type": "worker", "index": '
            f"0}}}} ({error}): correct it, or unset it to train alone"
        ) from error
    if sum(map(len, addresses.values())) == 1:
        return None
    if not addresses.get("ps") or not (
        addresses.get("chief") or addresses.get("worker")
    ):
        raise UserError(
            "TF_CONFIG names no {}: a job has at least one ps and one worker or "
            "chief".format("ps" if not addresses.get("ps") else "worker")
        )
    if len(addresses.get("chief", [])) > 1:
        raise UserError("TF_CONFIG names more than one chief: name one")
    return Cluster(addresses, job, index)


def start_server(cluster: Cluster, threads: Optional[int], devices: int):
    """Start TensorFlow's server of this process and return it.

    Raises:
      UserError: its port is taken.
    """
    config = session_config(threads=threads, cpus=devices)
    # With a single one, nothing is sent to the others before the own part is done.
    config.inter_op_parallelism_threads = max(SENDERS, cores())
    try:
        return tf.train.Server(
            cluster.addresses,
            job_name=cluster.job,
            task_index=cluster.index,
            config=config,
        )
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            f"cannot listen on {cluster.addresses[cluster.job][cluster.index]}, which "
            "TF_CONFIG names for this process: is another "
            "one using the port?"
        ) from error


class Task(Machine):
    """This process of a job of several machines.

    Args:
      cluster: the job.
      others: as for `Machine`.

    Raises:
      UserError: see `Machine` and `start_server`.
    """

    stages = False  # inputs come from all workers, see `Chief`

    def __init__(
        self,
        cluster: Cluster,
        batch_size: int = 1,
        devices: int = 1,
        threads: Optional[int] = None,
        precision: str = "float32",
    ) -> None:
        workers = len(cluster.workers)
        super().__init__(batch_size, devices, threads, precision, workers)
        self.is_chief = cluster.is_chief
        self._cluster = cluster
        switch_tf32(precision)  # of what this process computes for the chief
        self._server = start_server(cluster, threads, devices)

    def towers(self, conv5: bool) -> List[towers.Tower]:
        """Return what spreads a batch over the devices of all workers."""
        return towers.remote_towers(
            self._cluster.workers,
            len(self._cluster.addresses["ps"]),
            self.devices,
            lambda name: not conv5 and weights.is_of_backbone(name),
        )

    def placement(self) -> Optional[Callable]:
        """Return the device of what belongs to no tower, for tf.device."""
        return towers.remote_placement(
            self._cluster.workers[0], len(self._cluster.addresses["ps"])
        )

    def connect(self, form: Tuple[int, int, int]) -> None:
        """Add to the graph what brings samples, see `TrainingSet.form`, from others."""
        self._chief = Chief(self._cluster, form, self.shard_size)

    @contextlib.contextmanager
    def session(self, model) -> Iterator[Any]:
        """Open a session of the default graph that all machines compute for."""
        with new_session(
            precision=self.precision,
            threads=self.threads,
            cpus=self.devices,
            target=self._server.target,
        ) as session, end_with_others():
            yield session

    @contextlib.contextmanager
    def samples(
        self, session, training_set: TrainingSet, state: TrainState
    ) -> Iterator[Iterator[Sample]]:
        """Give the samples of all workers, and let the other tasks end at the end."""
        shard = Shard(0, self.workers, self.shard_size)
        own = training_set.samples(state.seed, state.positions[0], shard)
        words = vocabularies.number(training_set.dataset.vocabulary_file)
        self._chief.begin(session, state.seed, state.positions, words)
        try:
            with contextlib.closing(own):
                yield self._chief.samples(session, own)
        finally:
            self._chief.end(session)

    def serve(self, training_set: TrainingSet) -> None:
        """Be a worker or a parameter server until the chief ends the job.

        Raises:
          UserError: the samples could not be read, or are of other words than those
            of the chief, who has the error, too.
        """
        cluster, shard = self._cluster, Shard()
        if cluster.job != "ps":
            number = cluster.workers.index(cluster.task)
            shard = Shard(number, self.workers, self.shard_size)

        def samples(seed, position, words):
            path = training_set.dataset.vocabulary_file
            if words != vocabularies.number(path):
                raise UserError(
                    f"{path} of {cluster.task} is another vocabulary than that of "
                    f"{cluster.workers[0]}: all machines need the same data"
                )
            return training_set.samples(seed, position, shard)

        serve(cluster, self._server, training_set.form, samples)


class Lines(NamedTuple):
    """What the chief and another task say to each other: queues on the task's CPU."""

    begin: Any
    samples: Any
    end: Any


def _lines(task, rows, columns, words):
    with tf.device(task + "/device:CPU:0"):
        return Lines(
            tf.FIFOQueue(1, tf.int64, [[3]], shared_name="begin"),
            tf.FIFOQueue(
                READY,
                [tf.string, tf.int32, tf.uint8, tf.bool, tf.string, tf.int64],
                [[], [words], [rows, columns, 3], [rows, columns], [], [3]],
                shared_name="samples",
            ),
            tf.FIFOQueue(1, tf.int64, [[]], shared_name="end"),
        )


class Chief:
    """The chief's side of the lines to all other tasks, in its graph.

    Args:
      cluster: its tasks.
      form: (rows, columns, words) of a sample.
      shard_size: samples of a step for each worker.
    """

    def __init__(self, cluster: Cluster, form, shard_size: int) -> None:
        lines = {task: _lines(task, *form) for task in cluster.servants}
        self._begin = tf.placeholder(tf.int64, [None, 3])
        self._begins = [
            lines[task].begin.enqueue(self._begin[number])
            for number, task in enumerate(cluster.workers[1:], start=1)
        ]
        self._ends = [line.end.enqueue(np.int64(0)) for line in lines.values()]
        self._shards = [
            lines[task].samples.dequeue_many(shard_size) for task in cluster.workers[1:]
        ]
        self._shard_size, self._watch = shard_size, None
        self._addresses = [
            address
            for them in cluster.addresses.values()
            for address in them
            if address != cluster.chief_address
        ]

    def begin(self, session, seed: int, positions: List[int], words: int) -> None:
        """Let the workers read samples, each from its position on, and watch all.

        Args:
          session: of the chief.
          seed: of the order.
          positions: of the workers.
          words: `vocabularies.number` of the chief's vocabulary.
        """
        self._watch = Watch(self._addresses)
        table = [[seed, position, words] for position in positions]
        session.run(self._begins, {self._begin: table})

    def samples(self, session, own: Iterator[Sample]) -> Iterator[Sample]:
        """Yield the samples of all workers for ever: a shard of each a step.

        Args:
          own: the chief's.

        Raises:
          UserError: a worker could not read its samples.
        """
        while True:
            for _ in range(self._shard_size):
                yield next(own)
            for shard in self._shards:
                for error, *packed in zip(*session.run(shard)):
                    if error:
                        raise UserError(error.decode("utf-8"))
                    yield _unpack(*packed)

    def end(self, session) -> None:
        """Let all other tasks end, those that can still hear it."""
        self._watch.stop()
        with contextlib.suppress(tf.errors.OpError):
            session.run(self._ends)


def _pack(sample):
    """Return what the queue of samples holds after the error."""
    sentence = str(sample["sent_batch"][0]).encode("utf-8")
    about = [sample[key] for key in ("number", "position", "skipped")]
    arrays = [sample[key] for key in ("text_batch", "im_batch", "mask_batch")]
    return [*arrays, sentence, about]


def _unpack(words, image, mask, sentence, about):
    number, position, skipped = map(int, about)
    return {
        "text_batch": words,
        "im_batch": image,
        "mask_batch": mask,
        "sent_batch": [sentence.decode("utf-8")],
        "number": number,
        "position": position,
        "skipped": skipped,
    }


def _nothing(rows, columns, words):
    """Return what comes with an error: a queue takes only whole samples."""
    return [
        np.zeros([words], np.int32),
        np.zeros([rows, columns, 3], np.uint8),
        np.zeros([rows, columns], bool),
        b"",
        [0, 0, 0],
    ]


def serve(
    cluster: Cluster,
    server,
    form,
    samples: Callable[[int, int, int], Iterator[Sample]],
) -> None:
    """Be a worker or a parameter server until the chief ends the job.

    Signals to stop, which launchers send to all processes, are the chief's business.

    Args:
      cluster: with this process' task.
      server: of `start_server`.
      form: (rows, columns, words) of a sample.
      samples: function of (seed, position, words), see `Chief.begin`, that gives a
        worker's samples.

    Raises:
      UserError: the samples could not be read; the chief has the error, too.
    """
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    watch = Watch([cluster.chief_address])
    failures = []
    with tf.Graph().as_default():
        lines = _lines(cluster.task, *form)
        packed = [
            tf.placeholder(dtype, shape)
            for dtype, shape in zip(lines.samples.dtypes, lines.samples.shapes)
        ]
        operations = lines.begin.dequeue(), lines.samples.enqueue(packed)
        end = lines.end.dequeue()
        config = session_config()
        config.device_filters.append(cluster.task)
        with tf.Session(server.target, config=config) as session:
            work = (session, operations, packed, samples, form, failures)
            reader = threading.Thread(target=_read, args=work, daemon=True)
            if cluster.job != "ps":
                reader.start()
            session.run(end)
            watch.stop()
    if cluster.job != "ps":
        # Python must not end in the middle of its last call of TensorFlow.
        reader.join(LAST_CALL_SECONDS)
    if failures:
        raise failures[0]


def _read(session, operations, packed, samples, form, failures):
    """Hand samples to the chief; what goes wrong too."""
    begin, enqueue = operations

    def send(error, sample):
        session.run(enqueue, dict(zip(packed, [error.encode("utf-8"), *sample])))

    try:
        with contextlib.suppress(tf.errors.CancelledError, RuntimeError):
            for sample in samples(*map(int, session.run(begin))):
                send("", _pack(sample))
    except UserError as error:
        failures.append(error)
        with contextlib.suppress(tf.errors.CancelledError, RuntimeError):
            while True:  # the chief asks for several at once
                send(str(error), _nothing(*form))


class Watch:
    """Ends this process when another one of the job, once there, is gone.

    TensorFlow 1.15 would wait for it for ever.

    Args:
      addresses: "host:port" of the others.
    """

    def __init__(self, addresses: List[str]) -> None:
        self._addresses = addresses
        self._ends = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Let the others go."""
        self._ends.set()

    def _run(self):
        missed = dict.fromkeys(self._addresses)  # None: it was not there yet
        while not self._ends.wait(PING_SECONDS):
            for address, count in missed.items():
                if _answers(address):
                    missed[address] = 0
                elif count is not None:
                    missed[address] = count + 1
                if missed[address] == PINGS and not self._ends.is_set():
                    _leave(address)


def _answers(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), PING_SECONDS).close()
        return True
    return False


@contextlib.contextmanager
def end_with_others():
    """End this process when TensorFlow finds that another one of the job died."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        _leave("another one")


def _leave(who):
    """Exit with code 1, at once: TensorFlow would wait for the dead to answer."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        print(
            f"error: a process of the job died ({who}): start the job again with "
            "--resume, it resumes from the last snapshot",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)
