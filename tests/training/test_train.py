"""util.training.train, with a stand-in for the network where one is needed."""

import itertools
import json
import os
import random
import re
import signal
import threading
import time
from unittest import mock

import numpy as np
import pytest
import runs

import deeplab_resnet
from util.core.errors import Stopped, UserError
from util.data import im_processing
from util.graph.compat import tf
from util.training import loop, machine, start, train
from util.training.feeds import Feed


def sample(height=16, width=24, word=7, value=0):
    return {
        "text_batch": np.array([0] * 19 + [word], np.int32),
        "im_batch": np.full((height, width, 3), value, np.uint8),
        "mask_batch": np.zeros((height, width), bool),
        "sent_batch": [f"sentence {value}"],
        "number": value,
        "position": value + 1,
        "skipped": 0,
    }


@pytest.mark.parametrize("number, sizes", [(32, [8] * 4), (11, [8, 3])])
def test_calibration_sees_all_images(number, sizes, monkeypatch):
    images, batches = [sample(value=n)["im_batch"] for n in range(number)], []
    monkeypatch.setattr(
        deeplab_resnet, "calibrate", lambda _, seen: batches.extend(seen)
    )
    start.calibrate(None, images)
    assert [len(batch) for batch in batches] == sizes
    wanted = [im_processing.to_network_input(image) for image in images]
    np.testing.assert_array_equal(np.concatenate(batches), wanted)


class Session:
    """Notes what is fed for each step."""

    def __init__(self, losses=()):
        self.fed, self.noise = [], []
        self.losses = dict(losses)

    def run(self, fetches, feed=None):
        if feed is None:  # the regularisation, before a step that is told
            return 0.5
        (self.noise_seed,) = [key for key in feed if key != "fed"]
        self.fed.append(feed["fed"])
        self.noise.append(feed[self.noise_seed])
        cells = np.zeros((1, 2, 2, 1), np.float32)
        found = dict.fromkeys(fetches, 2.0)
        found.update(scores=cells, target=cells, learning_rate=0.1)
        found["loss"] = self.losses.get(len(self.fed), 1.0)
        return found


class Snapshots:
    """Notes at which steps it saves."""

    def __init__(self, finite=True):
        self.states, self.finite, self.best = {}, finite, None

    @property
    def steps(self):
        return list(self.states)

    def are_finite(self, session):
        return self.finite

    def save(self, session, step, state):
        assert len(session.fed) == step == state["step"]
        self.states[step] = state
        return f"snapshot {step}"

    def write_state(self, step, state):
        self.states[step] = state

    def keep_best(self, step):
        self.best = step
        return "best"


BEGIN = loop.TrainState(0, 9, 100, [0])


def feed_of(numbers):
    """Yield feeds of one sample each."""
    for number in numbers:
        yield Feed({"fed": number}, [sample(value=number)])


def learn(session, numbers, snapshots, last, every=999, begin=BEGIN, **more):
    schedule = loop.Schedule(last=last, every=every, **more)
    model = mock.Mock(losses={"pred": 1, "c5": 2}, waiting={})
    steps = loop.Loop(session, model, snapshots, schedule, begin)
    return steps.run(feed_of(numbers))


@pytest.mark.parametrize(
    "last, every, steps",
    [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 100, [3]), (1, 1, [1])],
)
def test_the_last_step_always_leaves_a_snapshot(last, every, steps):
    session, snapshots = Session(), Snapshots()
    path = learn(session, range(100), snapshots, last, every)
    assert session.fed == list(range(last))
    assert session.noise == [[9, step] for step in range(1, last + 1)]
    assert snapshots.steps == steps
    assert snapshots.states[last]["positions"] == [last]
    assert path == f"snapshot {last}"


def test_snapshots_are_saved_by_time(monkeypatch):
    clock = itertools.count(0, 40)
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    snapshots = Snapshots()
    learn(Session(), range(100), snapshots, 7, minutes=2)
    # 40 seconds pass with each look at the clock: one a step and one a snapshot.
    assert snapshots.steps == [3, 6, 7]


def test_next_feed_is_prepared_while_the_network_runs():
    prepared = threading.Event()

    def numbers():
        yield 0
        prepared.set()
        yield 1

    class WaitingSession(Session):
        def run(self, fetches, feed=None):
            assert prepared.wait(10)
            return super().run(fetches, feed)

    session = WaitingSession()
    learn(session, numbers(), Snapshots(), 2)
    assert session.fed == [0, 1]


@pytest.mark.parametrize("error", [UserError("cannot read x.npz"), MemoryError("x")])
def test_reader_that_dies_is_an_error_at_once(error):
    def numbers():
        yield 0
        yield 1
        raise error

    session = Session()
    with pytest.raises(type(error), match=str(error)):
        learn(session, numbers(), Snapshots(), 9)
    assert session.fed == [0, 1]
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_error_of_the_network_ends_the_feeds():
    class BrokenSession(Session):
        def run(self, fetches, feed=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(BrokenSession(), itertools.count(), None, 9)
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_too_little_memory_is_told_with_what_to_do():
    oom = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    network, samples = mock.Mock(side_effect=oom), mock.Mock(sentences_per_image=1)
    begin = start.Start(loop.TrainState(0, 1, 1, [0]))
    with pytest.raises(UserError, match="memory: take fewer sentences a step"):
        train.train(network, {}, samples, begin, None, "", machine.Machine(4))
    assert network.called


def test_progress_is_printed_every_100_steps_and_at_the_end(capsys):
    learn(Session(), range(999), Snapshots(), 250)
    lines = [x for x in capsys.readouterr().out.splitlines() if "loss (cur)" in x]
    assert [line.split(",")[0] for line in lines] == [
        "iter = 100",
        "iter = 200",
        "iter = 250",
    ]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_no_number_names_the_step_and_the_samples(loss):
    snapshots = Snapshots()
    told = "loss of step 4 is {} .samples 3.: the last good snapshot is snapshot 2; "
    with pytest.raises(Stopped, match=told.format(loss)):
        learn(Session({4: loss}), range(9), snapshots, 9, every=2)
    assert snapshots.steps == [2]


def test_weights_that_are_no_numbers_are_not_saved():
    snapshots = Snapshots(finite=False)
    with pytest.raises(
        Stopped, match="after step 2 some weights are NaN .* is none yet; "
    ):
        learn(Session(), range(9), snapshots, 9, every=2)
    assert snapshots.steps == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_ends_at_the_next_step(number, capsys):
    class SignalledSession(Session):
        def run(self, fetches, feed=None):
            if len(self.fed) == 2:
                os.kill(os.getpid(), number)
            return super().run(fetches, feed)

    snapshots, handler = Snapshots(), signal.getsignal(number)
    path = learn(SignalledSession(), range(99), snapshots, 99)
    assert (snapshots.steps, path) == ([3], "snapshot 3")
    assert "stopped by a signal: go on with --resume" in capsys.readouterr().out
    assert signal.getsignal(number) == handler


def test_evaluation_on_the_way_keeps_the_best():
    scores = {2: 0.3, 4: 0.5, 6: 0.4}
    asked = []

    def evaluate(snapshot):
        asked.append(snapshot)
        step = int(snapshot.split()[1])
        return {"overall_iou": scores[step], "mean_iou": 0.1}

    snapshots = Snapshots()
    options = dict(eval_steps=2, evaluate=evaluate)
    learn(Session(), range(99), snapshots, 6, **options)
    assert asked == ["snapshot 2", "snapshot 4", "snapshot 6"]
    assert snapshots.best == 4
    assert snapshots.states[6]["best"] == [0.5, 4]
    # Killed between the snapshot of step 6 and its evaluation: it is made up for.
    state = dict(snapshots.states[6], evaluated=4)
    begin = loop.TrainState(snapshot="snapshot 6", **state)
    learn(Session(), [], snapshots, 6, begin=begin, **options)
    assert asked[3:] == ["snapshot 6"]


@pytest.mark.parametrize("error", [UserError("it is\n gone"), MemoryError()])
def test_evaluation_that_fails_is_told_and_training_goes_on(error, capsys):
    def evaluate(snapshot):
        if snapshot == "snapshot 2":
            raise error
        return {"overall_iou": 0.5, "mean_iou": 0.1}

    snapshots = Snapshots()
    learn(Session(), range(99), snapshots, 4, eval_steps=2, evaluate=evaluate)
    told = f"the evaluation at step 2 failed ({type(error).__name__}:"
    assert told in capsys.readouterr().out
    assert snapshots.steps == [2, 4] and snapshots.best == 4
    assert snapshots.states[2]["evaluated"] == 0  # --resume tries again


def test_resumed_run_goes_on_with_what_the_snapshot_says():
    class ResumedSession(Session):
        def __init__(self):
            super().__init__()
            self.fed = [0, 1, 2]

    through, before, after = Snapshots(), Snapshots(), Snapshots()
    learn(Session(), range(99), through, 6, every=3)
    learn(Session(), range(99), before, 3)
    begin = loop.TrainState(snapshot="snapshot 3", **before.states[3])
    session = ResumedSession()
    learn(session, range(3, 99), after, 6, begin=begin)
    assert session.noise == [[9, 4], [9, 5], [9, 6]]
    assert after.states[6] == through.states[6]


def test_word_vectors_become_float32(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, np.arange(6.0).reshape(3, 2))
    vectors = start.load_word_vectors(path, 3)
    assert vectors.dtype == np.float32 and vectors.tolist() == [[0, 1], [2, 3], [4, 5]]


class Evil:
    """Asks whoever unpickles it to end the process."""

    def __reduce__(self):
        return exit, (3,)


@pytest.mark.parametrize(
    "content, told",
    [
        (np.zeros((4, 2)), r"holds an array of \(4, 2\), but the vocabulary has 3"),
        (np.zeros(3), r"holds an array of \(3,\)"),
        (np.array([Evil()] * 3, object), "cannot read the word vectors"),
        (np.array([["a", "b"]] * 3), "cannot read the word vectors"),
        (np.full((3, 2), np.nan), "holds values that are NaN"),
    ],
)
def test_word_vectors_that_do_not_fit_are_refused(tmp_path, content, told):
    path = str(tmp_path / "x.npy")
    np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=told) as caught:
        start.load_word_vectors(path, 3)
    assert path in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"<html>", b"PK\x03\x04", None])
def test_damaged_or_missing_word_vectors_are_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read .*x.npy.* util.glove"):
        start.load_word_vectors(str(path), 3)


@pytest.mark.parametrize("where", ["beside", "named", "nowhere"])
def test_fine_tuning_knows_the_words_of_the_other_run(tmp_path, monkeypatch, where):
    given = []

    def load_weights(session, model, snapshot, words, known):
        given.append((snapshot, words, known))
        return "loaded"

    monkeypatch.setattr(start, "load_weights", load_weights)
    old, new = "<pad>\n<unk>\nleft\n", "<pad>\n<unk>\nright\n"
    (tmp_path / "run").mkdir()
    path = {"beside": "run/vocabulary.txt", "named": "x.txt", "nowhere": "y.txt"}[where]
    (tmp_path / path).write_text(old)
    other = start.Start(
        BEGIN,
        init_from=str(tmp_path / "run" / "unc_iter_9.tfmodel.index"),
        init_vocabulary=str(tmp_path / path) if where == "named" else None,
    )
    training_set = mock.Mock(words=new.split)
    assert start.init_from(None, None, training_set, other) == "loaded"
    ((snapshot, words, known),) = given
    assert snapshot == str(tmp_path / "run" / "unc_iter_9.tfmodel")
    assert words == new.split()
    assert known == (None if where == "nowhere" else old.split())


# --- Killed and resumed, for real

STEPS, EVERY_SNAPSHOT, EVERY_LOG = 30, 4, 3
KILLS = 2
HEADER = 6  # lines before those of the steps, one of them about the cache


def begin_run(data, folder):
    run = ["-st", str(STEPS), "-s", str(EVERY_SNAPSHOT), "--resume", "--threads", "1"]
    # Dropout and shuffling draw at random, and the seed is all that is said of it.
    chance = ["--keep-prob-rnn", "0.8", "--keep-prob-emb", "0.9"]
    features = ["--cache-features", str(folder.parent / "features")]
    options = runs.TINY + data + ["-f", str(folder)] + run + chance + features
    return runs.start(EVERY_LOG, options)


def read_lines(process, count):
    """Read lines of a process' output; fewer where it ends."""
    return list(itertools.islice(process.stdout, count))


def end_softly(process):
    """Send SIGTERM after the first log line and check what comes of it."""
    read_lines(process, HEADER + 4)
    process.send_signal(signal.SIGTERM)
    out, _ = runs.finish(process)
    saved, last = out.splitlines()[-2:]
    assert last == "stopped by a signal: go on with --resume"
    snapshot = re.fullmatch(r"snapshot: (.*_iter_(\d+)\.tfmodel)", saved)
    with open(snapshot.group(1) + ".state.json") as file:
        assert json.load(file)["step"] == int(snapshot.group(2)) < STEPS


def test_run_killed_at_any_moment_gives_what_it_would_have_given(tmp_path):
    data, folder = runs.build(tmp_path), tmp_path / "killed" / "ckpts"
    (tmp_path / "through").mkdir()
    undisturbed = begin_run(data, tmp_path / "through" / "ckpts")
    end_softly(begin_run(data, folder))
    chance = random.Random()
    resumed = []
    for _ in range(KILLS):
        process = begin_run(data, folder)
        # A log step prints four lines, a snapshot one.
        lines = read_lines(process, HEADER + chance.randrange(16))
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        resumed += [line for line in lines if line.startswith("resumed")]
    runs.finish(begin_run(data, folder))
    out, _ = runs.finish(undisturbed)
    assert "resumed" not in out
    folders = tmp_path / "through" / "ckpts", folder
    wanted, found = (runs.values(path, STEPS) for path in folders)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)
    logs = [runs.of_the_run(runs.read_log(path)) for path in folders]
    assert logs[0] == logs[1]
    steps = [line["step"] for line in logs[0]]
    assert steps == list(range(EVERY_LOG, STEPS + 1, EVERY_LOG))
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 3
    # Kills before the first snapshot begin again, which needs no word of it.
    assert len(record.get("resumed", [])) >= len(resumed)
    assert not list(folder.glob("*.part")) and not (folder / ".saving").exists()
