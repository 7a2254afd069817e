"""util.data.data_reader: order, epochs, errors at their place, a clean end."""

import json
import os
import threading

import numpy as np
import pytest
from on_disk import write

from util.core import npz
from util.core.errors import UserError
from util.data import compact, samples
from util.data.data_reader import DataReader, Shard
from util.data.samples import sample_file, write_sample


def fill(folder, numbers, name="p"):
    """Write samples that tell their number."""
    for n in numbers:
        path = sample_file(str(folder), "unc_val", n)
        image = np.full((2, 3, 3), n, np.uint8)
        write_sample(path, [0] * 20, image, np.eye(2, 3) > 0, str(n), name)
    return str(folder)


def fill_compact(folder, numbers):
    """Write the same samples in the compact layout."""
    for n in numbers:
        path = compact.image_file(str(folder), "unc_val", n)
        image = np.full((2, 3, 3), n, np.uint8)
        compact.write_image(path, image, [np.eye(2, 3) > 0])
    entries = {n: ([0] * 20, str(n), n, 0) for n in numbers}
    index = compact.make_index(entries, ["p" for _ in numbers])
    compact.write_index(str(folder), "unc_val", index)
    return str(folder)


FILLS = pytest.mark.parametrize("fill", [fill, fill_compact])


def read(reader, count):
    """Return the numbers of the next samples."""
    return [int(reader.read_batch()["sent_batch"][0]) for _ in range(count)]


@FILLS
def test_order_without_shuffling_repeats(tmp_path, fill):
    with DataReader(fill(tmp_path, range(12)), "unc_val", shuffle=False) as reader:
        assert reader.num_batch == 12
        assert read(reader, 30) == (list(range(12)) * 3)[:30]


@FILLS
def test_every_epoch_has_another_order_of_all_samples(tmp_path, fill):
    with DataReader(fill(tmp_path, range(7)), "unc_val", seed=1) as reader:
        epochs = [read(reader, 7) for _ in range(4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seed_gives_the_order(tmp_path):
    orders = []
    for seed, prefetch_num in ((1, 8), (1, 2), (2, 8)):
        folder = fill(tmp_path, range(7))
        with DataReader(folder, "unc_val", True, prefetch_num, seed=seed) as reader:
            orders.append(read(reader, 14))
    assert orders[0] == orders[1] != orders[2]


@FILLS
def test_sample_has_all_keys(tmp_path, fill):
    with DataReader(fill(tmp_path, range(1)), "unc_val") as reader:
        sample = reader.read_batch()
    assert sorted(sample) == [
        "im_batch",
        "im_name_batch",
        "mask_batch",
        "sent_batch",
        "text_batch",
    ]
    assert sample["im_name_batch"] == ["p"]


@FILLS
def test_order_chooses_the_samples_of_an_epoch(tmp_path, fill):
    folder, order = fill(tmp_path, range(6)), [4, 0, 5, 4]
    with DataReader(folder, "unc_val", shuffle=False, order=order) as reader:
        assert reader.num_batch == 4
        assert read(reader, 8) == order + order
    with DataReader(folder, "unc_val", seed=1, order=np.array(order)) as reader:
        epochs = [read(reader, 4) for _ in range(6)]
    assert all(sorted(epoch) == sorted(order) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@FILLS
@pytest.mark.parametrize("order", [[], [0, 3], [-1]])
def test_order_of_samples_that_are_not_there_is_refused(tmp_path, fill, order):
    with pytest.raises(ValueError, match="samples from range\\(0, 3\\)"):
        DataReader(fill(tmp_path, range(3)), "unc_val", order=order)


def test_images_are_told_apart_by_name(tmp_path):
    fill(tmp_path, [0, 2], name="one")
    folder = fill(tmp_path, [1, 3], name="other")
    with DataReader(folder, "unc_val", order=[3]) as reader:
        assert reader.images() == ["one", "other", "one", "other"]


@pytest.mark.parametrize("change", [{}, {"im_name_batch": [""]}])
def test_images_without_a_name_are_told_apart_by_content(tmp_path, change):
    dark, bright = np.zeros((30, 20, 3), np.uint8), np.ones((30, 20, 3), np.uint8)
    shown = [dark, bright, dark, dark.transpose(1, 0, 2), bright]
    for n, image in enumerate(shown):
        path = sample_file(str(tmp_path), "unc_val", n)
        mask = np.ones(image.shape[:2], bool)
        write(path, im_batch=image, mask_batch=mask, sent_batch=[str(n)], **change)
    with DataReader(str(tmp_path), "unc_val") as reader:
        keys = reader.images()
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 1]


def test_damaged_sample_is_told_by_name_when_images_are_asked_for(tmp_path):
    folder = fill(tmp_path, range(3))
    os.truncate(sample_file(folder, "unc_val", 1), 100)
    with DataReader(folder, "unc_val") as reader:
        with pytest.raises(UserError, match="unc_val_1.npz"):
            reader.images()


def test_missing_and_empty_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="no samples .*unc_val_<n>.npz"):
            DataReader(str(folder), "unc_val")


@pytest.mark.parametrize("numbers, gap", [([0, 1, 3], 2), ([1, 2], 0)])
def test_gap_is_refused_by_name(tmp_path, numbers, gap):
    with pytest.raises(UserError, match=f"unc_val_{gap}.npz is missing"):
        DataReader(fill(tmp_path, numbers), "unc_val")


@pytest.mark.parametrize(
    "record", [{"sentences": 3, "complete": False}, {"sentences": 4, "complete": True}]
)
def test_unfinished_build_is_refused(tmp_path, record):
    (tmp_path / "build.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run build_batches.py again"):
        DataReader(fill(tmp_path, range(3)), "unc_val")


@pytest.mark.parametrize(
    "fill, name", [(fill, "unc_val_2.npz"), (fill_compact, "unc_val_picture_2.npz")]
)
def test_damaged_sample_is_told_at_its_place(tmp_path, fill, name):
    folder = fill(tmp_path, range(4))
    os.truncate(os.path.join(folder, name), 100)
    with DataReader(folder, "unc_val", shuffle=False) as reader:
        assert read(reader, 2) == [0, 1]
        with pytest.raises(UserError, match=name):
            reader.read_batch()
        assert read(reader, 2) == [3, 0]


def test_close_ends_the_threads_and_the_reading(tmp_path, monkeypatch):
    before = threading.active_count()
    reader = DataReader(fill(tmp_path, range(3)), "unc_val")
    read(reader, 2)
    assert threading.active_count() > before
    reader.close()
    reader.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        reader.read_batch()


def test_samples_are_loaded_ahead_and_no_further(tmp_path, monkeypatch):
    loaded = []
    whole = threading.Semaphore(0)

    def read_sample(path):
        loaded.append(os.path.basename(path))
        whole.release()

    monkeypatch.setattr(samples, "read_sample", read_sample)
    folder = fill(tmp_path, range(9))
    with DataReader(folder, "unc_val", shuffle=False, prefetch_num=3) as reader:
        assert all(whole.acquire(timeout=10) for _ in range(3))
        assert not whole.acquire(timeout=0.1)
        reader.read_batch()
        assert whole.acquire(timeout=10)
    assert sorted(loaded) == [f"unc_val_{n}.npz" for n in range(4)]


@pytest.fixture
def opened(monkeypatch):
    """Return a list that gets the name of each file of a sample that is opened."""
    names, really = [], npz.opened

    def opened(path, what):
        if what in ("sample", "image"):
            names.append(os.path.basename(path))
        return really(path, what)

    monkeypatch.setattr(npz, "opened", opened)
    return names


@FILLS
def test_remembered_samples_are_read_once_and_are_the_same(tmp_path, fill, opened):
    folder = fill(tmp_path, range(5))
    files = samples.open_samples(folder, "unc_val")
    wanted = {number: files.read(number) for number in range(5)}
    opened.clear()
    reader = DataReader(
        folder, "unc_val", prefetch_num=1, seed=1, remembered_bytes=10**6
    )
    with reader:
        for _ in range(15):
            sample = reader.read_batch()
            expected = wanted[reader.number]
            assert sample.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(sample[key], value)
                assert np.asarray(sample[key]).dtype == np.asarray(value).dtype
    assert len(opened) == len(set(opened)) == 5


def test_what_has_no_room_in_memory_is_read_again(tmp_path, opened):
    files = samples.open_samples(fill(tmp_path, range(3)), "unc_val")
    room = 2 * 3 * 3 + 1  # an image and a mask
    remembered = samples.Remembered(files, room)
    for number in (0, 1, 2, 0, 1, 2):
        assert remembered.read(number)["im_batch"].min() == number
    assert [opened.count(f"unc_val_{n}.npz") for n in range(3)] == [1, 2, 2]


def test_an_image_is_remembered_once_whatever_its_name(tmp_path):
    for n, shade in enumerate((7, 7, 8)):
        path = sample_file(str(tmp_path), "unc_val", n)
        image, mask = np.full((2, 3, 3), shade, np.uint8), np.eye(2, 3) > n / 9
        write_sample(path, [0] * 20, image, mask, str(n), "")
    files = samples.open_samples(str(tmp_path), "unc_val")
    remembered = samples.Remembered(files, 2 * 18 + 3)
    for _ in range(2):
        one, two, other = (remembered.read(number) for number in range(3))
        assert one["im_batch"] is two["im_batch"]
        assert other["im_batch"].min() == 8 and one["im_batch"].max() == 7


def test_reader_goes_on_from_the_position_of_another(tmp_path):
    folder = fill(tmp_path, range(7))
    with DataReader(folder, "unc_val", seed=3) as reader:
        before = read(reader, 9)
        position, number = reader.position, reader.number
        after = read(reader, 9)
    assert (position, number) == (9, before[-1])
    with DataReader(folder, "unc_val", seed=3, begin=position) as reader:
        assert read(reader, 9) == after


def test_shards_take_turns_and_together_give_all(tmp_path):
    folder = fill(tmp_path, range(7))
    with DataReader(folder, "unc_val", seed=3) as reader:
        together = read(reader, 24)
    shards = []
    for own in range(3):
        with DataReader(folder, "unc_val", seed=3, shard=Shard(own, 3, 2)) as reader:
            shards.append(read(reader, 8))
            assert reader.position == 18 + 2 * (own + 1)
    turns = [shards[own][2 * k : 2 * k + 2] for k in range(4) for own in range(3)]
    assert sum(turns, []) == together
    # A shard goes on from the position of any reader, at its own next turn.
    with DataReader(
        folder, "unc_val", seed=3, begin=12, shard=Shard(1, 3, 2)
    ) as reader:
        assert read(reader, 4) == shards[1][4:]


def test_groups_stay_together_when_shuffled(tmp_path):
    folder = fill(tmp_path, range(7))
    groups = [[0, 2, 4], [1, 3, 5], [6]]
    with DataReader(folder, "unc_val", seed=3, groups=groups) as reader:
        numbers = read(reader, 21)
    epochs = [numbers[first : first + 7] for first in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    for epoch in epochs:
        text = "".join(map(str, epoch))
        assert "024" in text and "135" in text
