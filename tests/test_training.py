"""util.training, with a stand-in for the network where one is needed."""

import itertools
import threading
from unittest import mock

import numpy as np
import pytest

from util import im_processing, training
from util.errors import UserError


class Reader:
    """Gives some samples again and again."""

    def __init__(self, *samples):
        self.samples = list(samples)

    def read_batch(self):
        self.samples.append(self.samples[0])
        return self.samples.pop(0)


def sample(height=16, width=24, word=7, value=0):
    return {
        "text_batch": np.array([0] * 19 + [word], np.int32),
        "im_batch": np.full((height, width, 3), value, np.uint8),
        "mask_batch": np.zeros((height, width), bool),
        "sent_batch": ["sentence {}".format(value)],
    }


OPTIONS = {"H": 16, "W": 24, "vocab_size": 8}


def test_samples_are_given_for_ever():
    samples = training.fitting_samples(Reader(sample(), sample(value=1)), OPTIONS)
    assert [next(samples)["im_batch"][0, 0, 0] for _ in range(5)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "other, told",
    [
        (sample(24, 16, value=1), "'sentence 1' is 16x24 pixels, the first one 24x16"),
        (sample(word=8, value=1), "'sentence 1' has word 8, .* has 8 words"),
    ],
)
def test_sample_that_does_not_fit_is_named(other, told):
    samples = training.fitting_samples(Reader(sample(), other), OPTIONS)
    next(samples)
    with pytest.raises(UserError, match=told):
        next(samples)


class Backbone:
    """Notes the pictures that it is calibrated with."""

    def calibrate_backbone(self, session, batches):
        self.batches = list(batches)


@pytest.mark.parametrize("number, sizes", [(100, [8] * 4), (32, [8] * 4), (11, [8, 3])])
def test_calibration_takes_the_first_pictures(number, sizes):
    samples = [sample(value=n) for n in range(number)]
    model = Backbone()
    training.calibrate(None, model, iter(samples))
    assert [len(batch) for batch in model.batches] == sizes
    wanted = [im_processing.to_network_input(s["im_batch"]) for s in samples]
    np.testing.assert_array_equal(np.concatenate(model.batches), wanted[: sum(sizes)])


def test_feeds_are_batches_in_order():
    model = mock.Mock()
    model.im.shape.as_list.return_value = [2, 16, 24, 3]
    model.words.shape.as_list.return_value = [2, 12]
    feeds = training.feeds(model, iter([sample(value=n, word=n) for n in range(6)]))
    next(feeds)
    feed = next(feeds)
    assert feed[model.words].shape == (2, 12)
    assert feed[model.words][:, -1].tolist() == [2, 3]
    assert feed[model.im].dtype == np.float32
    # BGR, minus the mean
    np.testing.assert_allclose(feed[model.im][1, 0, 0], 3 - im_processing.MEAN_BGR)
    assert feed[model.target_fine].shape == (2, 16, 24, 1)


class Session:
    """Notes what is fed for each step."""

    def __init__(self):
        self.fed = []

    def run(self, fetches, feed):
        assert len(fetches) == 5
        self.fed.append(feed)
        cells = np.zeros((1, 2, 2, 1), np.float32)
        return 1.0, cells, cells, 0.1, None


class Snapshots:
    """Notes at which steps it saves."""

    def __init__(self):
        self.steps = []

    def save(self, session, step):
        assert len(session.fed) == step
        self.steps.append(step)
        return "snapshot {}".format(step)


@pytest.mark.parametrize(
    "last, every, steps",
    [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 100, [3]), (1, 1, [1])],
)
def test_the_last_step_always_leaves_a_snapshot(last, every, steps):
    session, snapshots = Session(), Snapshots()
    feed = iter(range(100))
    path = training.learn(session, mock.Mock(), feed, last, snapshots, every)
    assert session.fed == list(range(last))
    assert snapshots.steps == steps
    assert path == "snapshot {}".format(last)


def test_next_feed_is_prepared_while_the_network_runs():
    prepared = threading.Event()

    def feeds():
        yield 0
        prepared.set()
        yield 1

    class WaitingSession(Session):
        def run(self, fetches, feed):
            assert prepared.wait(10)
            return super().run(fetches, feed)

    session = WaitingSession()
    training.learn(session, mock.Mock(), feeds(), 2, Snapshots(), 9)
    assert session.fed == [0, 1]


def test_error_in_a_feed_is_told_as_what_it_is():
    def feeds():
        yield 0
        yield 1
        raise UserError("cannot read the sample x.npz")

    session = Session()
    with pytest.raises(UserError, match="^cannot read the sample x.npz$"):
        training.learn(session, mock.Mock(), feeds(), 9, Snapshots(), 9)
    assert session.fed == [0, 1]
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_error_of_the_network_ends_the_feeds():
    class BrokenSession(Session):
        def run(self, fetches, feed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.learn(BrokenSession(), mock.Mock(), itertools.count(), 9, None, 9)
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_progress_is_printed_every_100_steps_and_at_the_end(capsys):
    training.learn(Session(), mock.Mock(), iter(range(999)), 250, Snapshots(), 999)
    lines = [x for x in capsys.readouterr().out.splitlines() if "loss (cur)" in x]
    assert [line.split(",")[0] for line in lines] == [
        "iter = 100",
        "iter = 200",
        "iter = 250",
    ]


def test_word_vectors_become_float32(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, np.arange(6.0).reshape(3, 2))
    vectors = training.load_word_vectors(path, 3)
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
        (np.full((3, 2), np.nan), "holds values that are no numbers"),
    ],
)
def test_word_vectors_that_do_not_fit_are_refused(tmp_path, content, told):
    path = str(tmp_path / "x.npy")
    np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=told) as caught:
        training.load_word_vectors(path, 3)
    assert path in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"<html>", b"PK\x03\x04", None])
def test_damaged_or_missing_word_vectors_are_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read .*x.npy.* util.glove"):
        training.load_word_vectors(str(path), 3)
