"""One batch on one device, on several, and on several machines."""

import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import runs

import trainval_model
from util.bench import scaling
from util.core.errors import UserError
from util.graph import session
from util.graph.compat import tf
from util.training import cluster
from util.training.train import find_machine

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


class Session:
    """Gives what workers sent, a shard of one sample each time."""

    def __init__(self, sent):
        self.sent = iter(sent)

    def run(self, fetches):
        return [np.array([part]) for part in next(self.sent)]


def test_samples_of_a_worker_arrive_whole_and_its_error_is_the_chiefs():
    sample = {
        "text_batch": np.arange(4, dtype=np.int32),
        "im_batch": np.full((2, 3, 3), 7, np.uint8),
        "mask_batch": np.eye(2, 3).astype(bool),
        "sent_batch": ["é"],
        "number": 5,
        "position": 6,
        "skipped": 1,
    }
    form = (2, 3, 4)
    error = "cannot read é".encode()
    session = Session(
        [[b"", *cluster._pack(sample)], [error, *cluster._nothing(*form)]]
    )
    with tf.Graph().as_default():
        job = cluster.Cluster(ADDRESSES, "worker", 0)
        chief = cluster.Chief(job, form, shard_size=1)
    samples = chief.samples(session, itertools.repeat("own"))
    assert next(samples) == "own"
    found = next(samples)
    assert set(found) == set(sample)
    for key in sample:
        np.testing.assert_array_equal(found[key], sample[key], key)
    assert next(samples) == "own"
    with pytest.raises(UserError, match="cannot read é"):
        next(samples)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options of runs that begin with the same weights."""
    root = tmp_path_factory.mktemp("cluster")
    data = runs.build(root)
    snapshot = runs.draw_weights(root / "first", data)
    several = ["-bs", "4", "--sentences-per-image", "2"]
    return runs.TINY + data + several + ["--init-from", snapshot]


def start_job(options, of_worker_1=None):
    """Start a parameter server and two workers; return {name: process}.

    The options of the second worker may be others.
    """
    ps, *workers = [f"127.0.0.1:{port}" for port in scaling.free_ports(3)]
    addresses = {"ps": [ps], "worker": workers}
    tasks = [("ps", 0), ("worker", 1), ("worker", 0)]
    return {
        "{} {}".format(*task): runs.start(
            1,
            of_worker_1 if of_worker_1 and task == ("worker", 1) else options,
            TF_CONFIG=config(*task, addresses=addresses),
        )
        for task in tasks
    }


@pytest.fixture(scope="module")
def resumed(options, tmp_path_factory):
    """The folder and the last step of a job that lost a worker and was resumed."""
    folder = tmp_path_factory.mktemp("job")
    options = options + ["-f", str(folder), "-s", "2", "--resume"]
    job = start_job(options + ["-st", "500"])
    for line in job["worker 0"].stdout:
        if line.startswith("snapshot"):
            break
    job["worker 1"].send_signal(signal.SIGKILL)
    for name in ("worker 0", "ps 0"):
        _, err = runs.finish(job[name], 1)
        assert err.count("\n") == 1 and "a process of the job died" in err
    runs.finish(job["worker 1"], -signal.SIGKILL)
    last = max(line["step"] for line in runs.read_log(folder)) + 3
    job = start_job(options + ["-st", str(last)])
    out, _ = runs.finish(job["worker 0"])
    assert "resumed: " in out
    for name in ("worker 1", "ps 0"):
        runs.finish(job[name])
    return folder, last


@pytest.fixture(scope="module")
def one(options, resumed, tmp_path_factory):
    """The folder of as many steps on one device."""
    folder = tmp_path_factory.mktemp("one")
    runs.finish(runs.start(1, options + ["-st", str(resumed[1]), "-f", str(folder)]))
    return folder


def check_same(folder, one, last):
    """Compare losses and weights with those of one device."""
    found, wanted = (runs.read_log(path) for path in (folder, one))
    assert [line["step"] for line in found] == list(range(1, last + 1))
    assert len(wanted) == last
    for line, other in zip(found, wanted):
        for key in ("loss", "loss_c5", "loss_c4", "loss_c3", "regularisation"):
            assert line[key] == pytest.approx(other[key], rel=1e-5), (key, line["step"])
    values = [runs.values(path, last) for path in (folder, one)]
    assert set(values[0]) == set(values[1])
    assert runs.distance(*values) < 1e-4


def test_two_workers_share_a_step_also_after_one_died(resumed, one):
    folder, last = resumed
    check_same(folder, one, last)
    assert json.loads((folder / "run.json").read_text())["workers"] == 2


def test_a_worker_with_other_words_ends_the_job(options, tmp_path):
    data = options[options.index("--data") + 1]
    other = tmp_path / "data"
    shutil.copytree(data, str(other))
    words = (other / "vocabulary_shapes.txt").read_text().split("\n")
    words[5], words[6] = words[6], words[5]
    (other / "vocabulary_shapes.txt").write_text("\n".join(words))
    (other / "shapes" / "train_batch" / "build.json").unlink()
    folder = ["-st", "3", "-f", str(tmp_path / "ck")]
    others = [str(other) if word == data else word for word in options]
    job = start_job(options + folder, others + folder)
    for name in ("worker 0", "worker 1"):
        _, err = runs.finish(job[name], 2)
        assert "of /job:worker/task:1 is another vocabulary than that of" in err
    runs.finish(job["ps 0"])
    assert not (tmp_path / "ck" / "log.jsonl").exists()


def test_two_devices_share_a_step(options, resumed, one, tmp_path):
    options = [word if word != "-1" else "0,1" for word in options]
    steps = ["-st", str(resumed[1])]
    runs.finish(runs.start(1, options + steps + ["-f", str(tmp_path)]))
    check_same(tmp_path, one, resumed[1])
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["devices"], record["sentences_per_image"]) == (2, 2)


@pytest.fixture
def error_of(monkeypatch, capsys, small_backbone):
    """A function that trains in this process and returns the error that ends it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")

    def train(options):
        assert trainval_model.main(["-m", "train", *options]) == 2
        return capsys.readouterr().err

    return train


@pytest.mark.parametrize(
    "devices, told",
    [
        ("0,1,2", "-bs 4 sentences cannot be shared by 1 workers with 3 devices"),
        ("0,1,2,3", "--sentences-per-image 2 does not fit: a device has 1 of the -bs"),
    ],
)
def test_sentences_that_cannot_be_shared_are_refused(
    options, tmp_path, error_of, devices, told
):
    options = [word if word != "-1" else devices for word in options]
    assert told in error_of([*options, "-st", "1", "-f", str(tmp_path / "x")])
    assert not os.path.exists(str(tmp_path / "x"))


def test_samples_in_another_order_are_not_resumed(options, one, tmp_path):
    folder = tmp_path / "ckpts"
    shutil.copytree(str(one), str(folder))
    other = [word if word != "2" else "4" for word in options]
    _, err = runs.finish(runs.start(1, other + ["-f", str(folder), "--resume"]), 2)
    assert "was trained with --sentences-per-image 2" in err


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("job", ["worker", "ps"])
def test_no_task_computes_with_tf32_unless_asked(monkeypatch, job, precision):
    """TensorFlow 2 would, and the chief's session cannot tell the other processes."""
    settings, asked = session.tensorflow.config.experimental, []
    name = "enable_tensor_float_32_execution"
    monkeypatch.setattr(settings, name, asked.append, raising=False)
    monkeypatch.setattr(cluster, "start_server", lambda *arguments: None)
    one = cluster.Cluster(ADDRESSES, job, len(ADDRESSES[job]) - 1)
    cluster.Task(one, batch_size=2, precision=precision)
    assert asked == [precision == "tf32"]


def test_xla_is_for_one_machine(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config("worker", 0))
    with pytest.raises(UserError, match="--xla is for one machine: leave it out, or"):
        find_machine(2, 1, None, "float32", xla=True)
    monkeypatch.delenv("TF_CONFIG")
    assert find_machine(2, 1, None, "float32", xla=True).xla


def test_no_machine_trains_in_float16():
    with pytest.raises(UserError, match="float16 is not for training"):
        find_machine(2, 1, None, "float16", xla=False)
