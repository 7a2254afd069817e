"""util.training.feature_cache: its files, its bounds, and training from it."""

import contextlib
import errno
import itertools
import json
import os
from collections import namedtuple

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model

from util.core import npz
from util.core.errors import UserError
from util.graph.compat import tf
from util.graph.session import new_session
from util.training import feature_cache, loop
from util.training.feature_cache import Cache, Folder
from util.training.feeds import feeds

BELONGS = {"backbone": "b1", "precision": "float32"}
SIZE = (16, 24)  # taps of 2 x 3 cells
NUM_VALUES = 2 * 3 * (512 + 1024 + 2048)
Usage = namedtuple("Usage", "free")


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch):
    """Let the tests pass on a disk that is nearly full."""
    monkeypatch.setattr(feature_cache, "FREE", 0)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "features")


def taps(seed, dtype="float32", channels=(2048, 1024, 512)):
    random = np.random.RandomState(seed)
    return [random.standard_normal((2, 3, depth)).astype(dtype) for depth in channels]


def assert_same(found, wanted):
    assert [tap.dtype for tap in found] == [tap.dtype for tap in wanted]
    for one, other in zip(found, wanted):
        np.testing.assert_array_equal(one, other)


# --- Files


def test_taps_of_a_narrow_backbone_come_back(path):
    narrow = taps(1, channels=(512, 256, 128))
    Folder(path, SIZE, BELONGS, width=16).store("a", narrow)
    assert_same(Folder(path, SIZE, BELONGS, width=16).load("a"), narrow)
    assert Folder(path, SIZE, BELONGS).load("a") is None  # of another form


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_taps_come_back_exactly_and_after_reopening(path, dtype):
    folder = Folder(path, SIZE, BELONGS, dtype)
    assert folder.load("a") is None
    folder.store("a", taps(1, dtype))
    folder.store("b", taps(2, dtype))
    folder = Folder(path, SIZE, BELONGS, dtype)
    assert folder.num_images == 2
    assert_same(folder.load("a"), taps(1, dtype))
    assert_same(folder.load("b"), taps(2, dtype))
    size = NUM_VALUES * np.dtype(dtype).itemsize
    assert size < os.path.getsize(os.path.join(path, "a.npz")) < size + 2000


def test_key_tells_images_apart_by_their_pixels():
    image = np.zeros((4, 6, 3), np.uint8)
    other = image.copy()
    other[3, 5, 2] = 1
    keys = [feature_cache.image_key(p) for p in (image, image.copy(), other)]
    assert keys[0] == keys[1] != keys[2]
    seen_from_behind = other[::-1, ::-1, ::-1]
    assert feature_cache.image_key(seen_from_behind) != keys[2]


@pytest.mark.parametrize(
    "size, belongs, dtype, told",
    [
        (SIZE, dict(BELONGS, backbone="b2"), "float32", "backbone"),
        (SIZE, dict(BELONGS, precision="tf32"), "float32", "precision"),
        (SIZE, BELONGS, "float16", "dtype"),
        ((24, 16), BELONGS, "float32", "size"),
        ((24, 16), dict(BELONGS, backbone="b2"), "float32", "backbone, size"),
    ],
)
def test_features_of_something_else_are_refused(path, size, belongs, dtype, told):
    Folder(path, SIZE, BELONGS).store("a", taps(1))
    with pytest.raises(UserError, match=f"made with another {told}: ") as caught:
        Folder(path, size, belongs, dtype)
    assert path in str(caught.value)
    assert "another folder with --cache-features, or delete" in str(caught.value)
    assert_same(Folder(path, SIZE, BELONGS).load("a"), taps(1))


def test_folder_of_something_else_is_refused_and_untouched(path):
    os.mkdir(path)
    download = os.path.join(path, "film.part")
    open(download, "w").close()
    with pytest.raises(UserError, match="name an empty folder with --cache-features"):
        Folder(path, SIZE, BELONGS)
    assert os.listdir(path) == ["film.part"]
    with pytest.raises(UserError, match="cannot keep features in .*film.part"):
        Folder(download, SIZE, BELONGS)


@pytest.mark.parametrize("content", ["", "[]", "{", '["a", "b"]', "3"])
def test_damaged_record_is_refused(path, content):
    Folder(path, SIZE, BELONGS)
    with open(os.path.join(path, feature_cache.RECORD), "w") as file:
        file.write(content)
    with pytest.raises(UserError, match="another backbone, dtype, precision, size"):
        Folder(path, SIZE, BELONGS)


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(20000)
        byte = file.read(1)[0]
        file.seek(20000)
        file.write(bytes([byte ^ 1]))


def write_other_taps(path):
    npz.write(path, dict(zip(feature_cache.LEVELS, taps(1, "float16"))))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, write_other_taps])
def test_damaged_file_is_reported_and_made_again(path, damage, capsys):
    folder = Folder(path, SIZE, BELONGS)
    folder.store("a", taps(1))
    damage(os.path.join(path, "a.npz"))
    assert folder.load("a") is None
    told = capsys.readouterr().out
    assert told == "{} is damaged and made again\n".format(os.path.join(path, "a.npz"))
    assert folder.num_images == 0 and not os.path.exists(os.path.join(path, "a.npz"))
    folder.store("a", taps(1))
    assert_same(folder.load("a"), taps(1))


def test_interrupted_file_leaves_nothing(path, monkeypatch):
    folder = Folder(path, SIZE, BELONGS)

    def interrupted(source, target):
        assert os.path.getsize(source) > 4 * NUM_VALUES
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.store("a", taps(1))
    assert os.listdir(path) == [feature_cache.RECORD]


def test_what_a_killed_training_left_is_removed(path):
    Folder(path, SIZE, BELONGS)
    part = os.path.join(path, "a.npz.99999999.part")
    open(part, "w").close()
    assert Folder(path, SIZE, BELONGS).num_images == 0
    assert os.path.exists(part)  # of another machine, perhaps
    os.utime(part, (0, 0))
    folder = Folder(path, SIZE, BELONGS)
    assert os.listdir(path) == [feature_cache.RECORD]
    assert folder.num_images == 0


def test_training_killed_before_it_said_whose_they_are_stops_nothing(path):
    os.mkdir(path)
    for name in (".lock", feature_cache.RECORD + ".99999999.part"):
        open(os.path.join(path, name), "w").close()
    Folder(path, SIZE, BELONGS).store("a", taps(1))
    assert_same(Folder(path, SIZE, BELONGS).load("a"), taps(1))


def test_of_two_trainings_that_begin_at_once_one_has_the_folder(path, monkeypatch):
    other = dict(BELONGS, backbone="another")

    @contextlib.contextmanager
    def after_another(folder, waits):
        assert waits
        with open(os.path.join(folder, feature_cache.RECORD), "w") as file:
            json.dump(dict(other, size=list(SIZE), dtype="float32"), file)
        yield

    monkeypatch.setattr(feature_cache.files, "locked", after_another)
    with pytest.raises(UserError, match="made with another backbone"):
        Folder(path, SIZE, BELONGS)
    assert Folder(path, SIZE, other).num_images == 0  # no lock: it may be read-only


def test_record_says_what_the_features_are_of(path):
    Folder(path, SIZE, BELONGS, "float16")
    with open(os.path.join(path, feature_cache.RECORD)) as file:
        wanted = dict(BELONGS, size=[16, 24], dtype="float16")
        assert json.load(file) == wanted


# --- Bounds


def test_size_is_bounded_and_what_is_there_still_serves(path, capsys):
    limit = 2.5 * 4 * NUM_VALUES
    folder = Folder(path, SIZE, BELONGS, limit=limit)
    for n in range(4):
        folder.store(str(n), taps(n))
    assert [folder.load(str(n)) is not None for n in range(4)] == [True] * 2 + [
        False
    ] * 2
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "of 2 images" in told
    assert "--cache-size is reached" in told and "training continues" in told
    assert sum(item.stat().st_size for item in os.scandir(path)) < limit
    # Another training with more room goes on; one with no more room adds nothing.
    Folder(path, SIZE, BELONGS, limit=limit).store("3", taps(3))
    assert not os.path.exists(os.path.join(path, "3.npz"))
    Folder(path, SIZE, BELONGS, limit=2 * limit).store("3", taps(3))
    assert_same(Folder(path, SIZE, BELONGS).load("3"), taps(3))


def test_disk_keeps_room_for_snapshots(path, capsys, monkeypatch):
    folder = Folder(path, SIZE, BELONGS)
    monkeypatch.setattr(feature_cache, "FREE", 10**9)
    free = [10**9 + 4 * NUM_VALUES]
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: Usage(free[0]))
    folder.store("a", taps(1))
    free[0] -= 1
    folder.store("b", taps(2))
    assert folder.load("a") is not None and folder.load("b") is None
    assert "the disk is nearly full" in capsys.readouterr().out


def test_full_disk_does_not_end_training(path, capsys, monkeypatch):
    folder = Folder(path, SIZE, BELONGS)
    calls = []

    def full(source, target):
        calls.append(target)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    folder.store("a", taps(1))
    folder.store("b", taps(2))
    assert len(calls) == 1 and os.listdir(path) == [feature_cache.RECORD]
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "No space left on device" in told


def test_values_that_float16_cannot_hold_are_told(path):
    wide = [np.full((2, 3, 512), 70000, np.float32)]
    folder = Folder(path, SIZE, BELONGS, "float16")
    with pytest.raises(UserError, match="too large for float16: use --cache-dtype"):
        folder.rounded(wide)
    assert folder.rounded([wide[0] / 2])[0][0, 0, 0] == np.float16(35000)


# --- Training

STEPS = 3


def samples(numbers):
    """Yield samples for ever; image, sentence and mask by number."""
    for n in itertools.cycle(numbers):
        yield {
            "text_batch": recipe.words(n, 3, vocab=50)[0],
            "im_batch": recipe.image(n, 64, 64),
            "mask_batch": recipe.mask(n, 64, 64)[..., 0] > 0,
            "number": n,
            "position": n + 1,
            "skipped": 0,
        }


class Trainer:
    """Trains a small network from the recipe's weights, again and again.

    It is also the session, which notes what is run, and the snapshots.

    Attributes:
      losses: one a step.
      weights: of all trained variables side by side, at the end.
      looks: how often the backbone ran alone.
    """

    def __init__(self):
        self.model = LSTM_model(batch_size=2, mode="train", **SMALL)
        self.session = new_session()
        networks.load_recipe(self.session)
        self.variables = tf.global_variables("text_objseg")
        self.first = self.session.run(self.variables)
        self.graph = self.session.graph

    def train(self, make_feed):
        """Take STEPS steps; `make_feed` is a function of the trainer."""
        self.session.run(
            [variable.initializer for variable in self.variables],
            {v.initializer.inputs[1]: x for v, x in zip(self.variables, self.first)},
        )
        self.losses, self.looks = [], 0
        with contextlib.closing(make_feed(self)) as feed:
            schedule = loop.Schedule(last=STEPS, every=STEPS)
            begin = loop.TrainState(0, 1, 4, [0])
            loop.Loop(self, self.model, self, schedule, begin).run(feed)
        values = self.session.run(tf.trainable_variables("text_objseg"))
        self.weights = np.concatenate([value.ravel() for value in values])
        return self.losses, self.weights, self.looks

    def run(self, fetches, feed=None):
        if fetches == feature_cache.tap_tensors(self.model):
            self.looks += 1
        found = self.session.run(fetches, feed)
        if isinstance(fetches, dict):
            self.losses.append(found["loss"])
        return found

    def are_finite(self, session):
        return True

    def save(self, session, step, state):
        return "none"


@pytest.fixture(scope="module")
def trainer():
    with tf.Graph().as_default():
        trainer = Trainer()
        yield trainer
        trainer.session.close()


@pytest.fixture(scope="module")
def plain(trainer):
    """Losses and weights of training without a cache."""
    return trainer.train(lambda t: feeds(t.model, samples(range(4))))[:2]


def cached(path, numbers=range(4), **options):
    """Return a function that makes the feed from a cache; `options` of Folder."""

    def make_feed(trainer):
        folder = Folder(path, (64, 64), BELONGS, **options)
        cache = Cache(trainer, trainer.model, folder)
        return feeds(trainer.model, samples(numbers), cache)

    return make_feed


def assert_trained_alike(found, wanted, difference):
    """Compare losses, and weights by the root of their mean squared difference.

    Adam turns rounding into steps where a gradient is nothing but rounding, so single
    weights may differ; in STEPS steps it moves a weight by 7.5e-4.
    """
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    assert len(found[0]) == STEPS
    assert np.sqrt(np.mean((found[1] - wanted[1]) ** 2)) < difference


# TensorFlow 2.21 gives the same bits for float32; TensorFlow 1.15 the same losses, and
# 4e-7, since it optimises the graph with and without the backbone in its own ways.
# Rounding to float16 gives 6e-6 on both.
@pytest.mark.parametrize("dtype, difference", [("float32", 2e-6), ("float16", 2e-5)])
def test_training_from_a_cache_is_training(path, trainer, plain, dtype, difference):
    filling = trainer.train(cached(path, dtype=dtype))
    # Four images in two steps; the third step has those of the first.
    assert filling[2] == 2
    assert_trained_alike(filling, plain, difference)
    assert len(os.listdir(path)) == 4 + 1
    filled = trainer.train(cached(path, dtype=dtype))
    assert filled[2] == 0
    assert filled[0] == filling[0]
    np.testing.assert_array_equal(filled[1], filling[1])


def test_what_an_interrupted_training_saw_is_not_computed_again(path, trainer):
    assert trainer.train(cached(path, [0, 1]))[2] == 1
    assert trainer.train(cached(path, [0, 1, 2, 0]))[2] == 1
    assert len(os.listdir(path)) == 3 + 1


def test_full_cache_computes_the_rest_each_time(path, trainer):
    limit = 2.5 * 4 * 8 * 8 * (512 + 1024 + 2048)
    trainer.looks, looks = 0, []
    numbers = [0, 1, 2, 3, 0, 1, 2, 3]
    with contextlib.closing(cached(path, numbers, limit=limit)(trainer)) as feed:
        for _ in range(4):
            next(feed)
            looks.append(trainer.looks)
    assert looks == [1, 2, 2, 3] and len(os.listdir(path)) == 2 + 1


@pytest.mark.parametrize("numbers", [[0, 1], [1, 0], [2, 0], [0, 2], [2, 2], [2, 3]])
def test_each_image_is_fed_its_own_taps(path, trainer, numbers):
    """Images 0 and 1 are in the folder, 2 and 3 are not."""
    trainer.train(cached(path, [0, 1]))
    with contextlib.closing(cached(path, numbers)(trainer)) as feed:
        found = next(feed).values
    wanted = next(feeds(trainer.model, samples(numbers))).values
    tensors = feature_cache.tap_tensors(trainer.model)
    seen = trainer.session.run(
        tensors, {trainer.model.im: wanted.pop(trainer.model.im)}
    )
    for tensor, tap in zip(tensors, seen):
        assert found[tensor].dtype == np.float32
        # An image's neighbours in a batch may change how its sums are rounded.
        np.testing.assert_allclose(found.pop(tensor), tap, rtol=1e-4, atol=1e-4)
    assert set(found) == set(wanted)
    for key in wanted:
        np.testing.assert_array_equal(found[key], wanted[key])


def test_options_make_the_cache(path, trainer, capsys):
    model = trainer.model
    assert model.im in next(feeds(model, samples([0]))).values
    chosen = feature_cache.Options(path, "float16", limit=0.0015e9)
    cache = feature_cache.open_cache(trainer, model, chosen)
    with contextlib.closing(feeds(model, samples(range(4)), cache)) as feed:
        assert model.im not in next(feed).values
        assert model.visual_feat_c5 in next(feed).values
    told = capsys.readouterr().out
    assert told.startswith(f"features of 0 images, 0.0 GB, in {path}\n")
    # Of 8 * 8 * 3584 * 2 bytes each, three fit into 1.5 MB and the fourth does not.
    assert "features of 3 images" in told and "--cache-size is reached" in told
    assert len(os.listdir(path)) == 3 + 1


def test_memory_serves_as_a_folder_does(path, trainer):
    def make_feed(trainer):
        chosen = feature_cache.Options(None, "float16")
        cache = feature_cache.open_cache(trainer, trainer.model, chosen)
        return feeds(trainer.model, samples(range(4)), cache)

    in_memory = trainer.train(make_feed)
    on_disk = trainer.train(cached(path, dtype="float16"))
    assert in_memory[2] == on_disk[2] == 2
    assert_trained_alike(in_memory, on_disk, 2e-6)


def test_sentences_of_an_image_share_its_taps(path):
    """Steps of four sentences about two images or three, cached and not."""
    with tf.Graph().as_default(), new_session() as session:
        with networks.without_training_step():
            model = LSTM_model(batch_size=4, grouped=True, mode="train", **SMALL)
        networks.load_recipe(session)
        numbers = [n for image in range(3) for n in (image, image)]
        losses = []
        for cache in (None, Cache(session, model, feature_cache.Memory())):
            with contextlib.closing(feeds(model, samples(numbers), cache)) as feed:
                steps = [next(feed) for _ in range(3)]
            assert [len(step.samples) for step in steps] == [4] * 3
            numbers_of = [step.values[model.image_of].tolist() for step in steps]
            assert numbers_of == [[0, 0, 1, 1]] * 3
            shown = [[sample["number"] for sample in step.samples] for step in steps]
            assert shown == [[0, 0, 1, 1], [2, 2, 0, 0], [1, 1, 2, 2]]
            fetched = [session.run(model.cls_loss, step.values) for step in steps]
            losses.append(fetched)
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_another_backbone_is_refused(path, trainer):
    session, given = trainer.session, feature_cache.Options(path)
    feature_cache.open_cache(session, trainer.model, given)
    feature_cache.open_cache(session, trainer.model, given)
    (variance,) = [
        variable
        for variable in tf.global_variables()
        if variable.op.name == "bn5c_branch2c/moving_variance"
    ]
    value = session.run(variance)
    other = value.copy()
    other[7] = np.nextafter(other[7], np.float32(9))
    variance.load(other, session)
    try:
        with pytest.raises(UserError, match="made with another backbone: "):
            feature_cache.open_cache(session, trainer.model, given)
    finally:
        variance.load(value, session)
    feature_cache.open_cache(session, trainer.model, given)
    with pytest.raises(UserError, match="made with another precision: "):
        feature_cache.open_cache(session, trainer.model, given, "tf32")


def test_training_does_not_change_what_the_checksum_is_of(path, trainer):
    before = feature_cache.backbone_checksum(trainer.session)
    trainer.train(cached(path))
    assert feature_cache.backbone_checksum(trainer.session) == before
