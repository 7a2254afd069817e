"""How much faster two machines train than one, for `util.benchmark --distributed`.

The machines are processes of this one, each pinned to one core: a parameter server and
one or two workers, as users start them. The network is small, so that a worker's core
is what limits it. Every worker takes the same number of sentences a step.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from importlib import util as importing
from typing import Dict, List

from util.core import parallel
from util.core.errors import UserError
from util.data import datasets, shapes
from util.data.build import build_samples

SENTENCES = 4  # a step, of each worker
SIZE = 64  # pixels
STEPS = 200  # the second hundred is timed
SCENES = {"train": 16, "val": 1, "test": 1}


def measure() -> Dict[str, float]:
    """Return sentences a second of one and of two workers, and their ratio.

    Raises:
      UserError: there is but one core, or a process failed.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UserError("--distributed needs two cores, this process has one")
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        shapes.draw(folder, num_scenes=SCENES)
        dataset = datasets.get("shapes", folder)
        build_samples(dataset, "train", size=SIZE, jobs=2)
        rates = {str(workers): _train(folder, workers, cores[:2]) for workers in (1, 2)}
    return dict(rates, ratio=rates["2"] / rates["1"])


def _train(data: str, workers: int, cores: List[int]) -> float:
    """Train and return the sentences a second of all workers together."""
    ports = free_ports(1 + workers)
    ps, *others = [f"127.0.0.1:{port}" for port in ports]
    snapshots = os.path.join(data, f"ckpts_{workers}")
    command = [sys.executable, command_line()]
    command += "-m train -d shapes -t train -g -1 --seed 1 --v-emb-dim 32".split()
    command += ["--mlp-dim", "16", "--data", data, "-f", snapshots]
    command += ["-bs", str(SENTENCES * workers), "-st", str(STEPS)]
    # The parameter server shares a core with the last worker.
    tasks = [("worker", number, cores[number]) for number in range(workers)]
    tasks.append(("ps", 0, cores[-1]))
    running = [_start(command, {"ps": [ps], "worker": others}, *task) for task in tasks]
    try:
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                raise UserError(errors.strip().rsplit("\n", 1)[-1])
    finally:
        for process in running:
            process.kill()
    from util.training import run_log  # not above: TensorFlow loads with it

    with open(os.path.join(snapshots, run_log.LOG), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return lines[-1]["sentences_per_s"]


def _start(command, addresses, job, index, core):
    config = {"cluster": addresses, "task": {"type": job, "index": index}}
    return subprocess.Popen(
        command,
        env=dict(os.environ, TF_CONFIG=json.dumps(config)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        preexec_fn=lambda: _begin(core),
    )


def _begin(core):
    """Set a process up that is about to become a worker."""
    parallel.end_with_parent()
    os.sched_setaffinity(0, {core})


def command_line() -> str:
    """Return the path of trainval_model.py, which users start."""
    return importing.find_spec("trainval_model").origin


def free_ports(count: int) -> List[int]:
    """Return ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
