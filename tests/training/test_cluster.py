"""One batch on one device, on several, and on several machines."""

import json
import os
import signal

import pytest
import runs

from util.bench import scaling
from util.core.errors import UserError
from util.training import cluster

STEPS = 5
ADDRESSES = {"ps": ["a:1"], "worker": ["b:2", "c:3"]}


def config(job, index, addresses=ADDRESSES):
    return json.dumps({"cluster": addresses, "task": {"type": job, "index": index}})


def test_the_first_worker_is_the_chief_where_none_is_named():
    first, second, server = (
        cluster.read(config(*task))
        for task in [("worker", 0), ("worker", 1), ("ps", 0)]
    )
    assert [one.is_chief for one in (first, second, server)] == [True, False, False]
    assert first.workers == ["/job:worker/task:0", "/job:worker/task:1"]
    assert first.servants == ["/job:worker/task:1", "/job:ps/task:0"]
    assert server.chief_address == "b:2"


def test_a_chief_that_is_named_computes_too():
    addresses = dict(ADDRESSES, chief=["d:4"])
    chief, worker = (
        cluster.read(config(job, 0, addresses)) for job in ("chief", "worker")
    )
    assert chief.is_chief and not worker.is_chief
    assert chief.workers[0] == "/job:chief/task:0" and len(chief.workers) == 3
    assert worker.chief_address == "d:4"


@pytest.mark.parametrize("text", ["", " ", config("worker", 0, {"worker": ["a:1"]})])
def test_a_process_alone_needs_no_cluster(text):
    assert cluster.read(text) is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "TF_CONFIG is not of the form"),
        ("[]", "TF_CONFIG is not of the form"),
        (config("worker", 2), "TF_CONFIG is not of the form .*unknown job"),
        (config("worker", -1), "TF_CONFIG is not of the form"),
        (config("evaluator", 0), "TF_CONFIG is not of the form"),
        (config("ps", 0, {"ps": ["a"], "worker": ["b:2"]}), "is not of the form"),
        (config("worker", 0, {"worker": ["a:1", "b:2"]}), "names no ps"),
        (config("ps", 0, {"ps": ["a:1", "b:2"]}), "names no worker"),
        (config("ps", 0, dict(ADDRESSES, chief=["a:3", "b:4"])), "more than one chief"),
    ],
)
def test_wrong_configurations_are_told(text, told):
    with pytest.raises(UserError, match=told):
        cluster.read(text)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Options that begin with the same weights, and the figures of one device."""
    root = tmp_path_factory.mktemp("cluster")
    data = runs.build(root)
    snapshot = runs.draw_weights(root / "first", data)
    options = runs.TINY + data + ["-bs", "4", "-st", str(STEPS)]
    options += ["--init-from", snapshot]
    runs.finish(runs.start(1, options + ["-f", str(root / "one")]))
    return options, root / "one"


def check_same(folder, one):
    """Compare losses and weights with those of one device."""
    found, wanted = (runs.read_log(path) for path in (folder, one))
    assert len(found) == len(wanted) == STEPS
    for line, other in zip(found, wanted):
        for key in ("loss", "loss_c5", "loss_c4", "loss_c3", "regularisation"):
            assert line[key] == pytest.approx(other[key], rel=1e-5), (key, line["step"])
    values = [runs.values(path, STEPS) for path in (folder, one)]
    assert set(values[0]) == set(values[1])
    assert runs.distance(*values) < 1e-4


def test_two_devices_share_a_step(begun, tmp_path):
    options, one = begun
    options = [word if word != "-1" else "0,1" for word in options]
    runs.finish(runs.start(1, options + ["-f", str(tmp_path)]))
    check_same(tmp_path, one)
    assert json.loads((tmp_path / "run.json").read_text())["devices"] == 2


def start_job(options):
    """Start a parameter server and two workers; return {name: process}."""
    ps, *workers = [f"127.0.0.1:{port}" for port in scaling.free_ports(3)]
    addresses = {"ps": [ps], "worker": workers}
    tasks = [("ps", 0), ("worker", 1), ("worker", 0)]
    return {
        "{} {}".format(*task): runs.start(
            1, options, TF_CONFIG=config(*task, addresses=addresses)
        )
        for task in tasks
    }


def test_two_workers_share_a_step(begun, tmp_path):
    options, one = begun
    job = start_job(options + ["-f", str(tmp_path)])
    for process in job.values():
        runs.finish(process)
    check_same(tmp_path, one)
    assert json.loads((tmp_path / "run.json").read_text())["workers"] == 2


def test_dead_worker_stops_the_job_which_resumes(begun, tmp_path):
    options, _ = begun
    options = options + ["-f", str(tmp_path), "-s", "2", "--resume"]
    long = [word if word != str(STEPS) else "500" for word in options]
    job = start_job(long)
    for line in job["worker 0"].stdout:
        if line.startswith("snapshot"):
            break
    job["worker 1"].send_signal(signal.SIGKILL)
    _, err = runs.finish(job["worker 0"], 1)
    assert err.count("\n") == 1 and "a process of the job died" in err
    _, err = runs.finish(job["ps 0"], 1)
    assert err.count("\n") == 1 and "a process of the job died" in err
    runs.finish(job["worker 1"], -signal.SIGKILL)
    steps = [line["step"] for line in runs.read_log(tmp_path)]
    last = max(steps) + 3
    again = [word if word != "500" else str(last) for word in long]
    job = start_job(again)
    out, _ = runs.finish(job["worker 0"])
    assert "resumed: " in out
    for name in ("worker 1", "ps 0"):
        runs.finish(job[name])
    assert [line["step"] for line in runs.read_log(tmp_path)] == list(
        range(1, last + 1)
    )


def test_sentences_that_cannot_be_shared_are_refused(begun, tmp_path):
    options, _ = begun
    options = [word if word != "-1" else "0,1,2" for word in options]
    _, err = runs.finish(runs.start(1, options + ["-f", str(tmp_path / "x")]), 2)
    assert "-bs 4 sentences cannot be shared by 1 workers with 3 devices" in err
    assert not os.path.exists(str(tmp_path / "x"))
