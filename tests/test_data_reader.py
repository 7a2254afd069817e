"""util.data_reader: order, epochs, errors at their place, a clean end."""

import json
import os
import threading

import numpy as np
import pytest

from util import batches
from util.data_reader import DataReader
from util.errors import UserError


def fill(folder, numbers):
    """Write samples that tell their number."""
    for n in numbers:
        path = batches.sample_file(str(folder), "unc_val", n)
        picture = np.full((2, 3, 3), n, np.uint8)
        batches.write_sample(path, [0] * 20, picture, np.eye(2, 3) > 0, str(n), "p")
    return str(folder)


def read(reader, count):
    """Return the numbers of the next samples."""
    return [int(reader.read_batch()["sent_batch"][0]) for _ in range(count)]


def test_order_without_shuffling_repeats(tmp_path):
    with DataReader(fill(tmp_path, range(12)), "unc_val", shuffle=False) as reader:
        assert reader.num_batch == 12
        assert read(reader, 30) == (list(range(12)) * 3)[:30]


def test_every_epoch_has_another_order_of_all_samples(tmp_path):
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


def test_sample_has_all_keys(tmp_path):
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


def test_missing_and_empty_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="no samples .*unc_val_<n>.npz"):
            DataReader(str(folder), "unc_val")


@pytest.mark.parametrize("numbers, gap", [([0, 1, 3], 2), ([1, 2], 0)])
def test_gap_is_refused_by_name(tmp_path, numbers, gap):
    with pytest.raises(UserError, match="unc_val_{}.npz is missing".format(gap)):
        DataReader(fill(tmp_path, numbers), "unc_val")


@pytest.mark.parametrize(
    "record", [{"sentences": 3, "complete": False}, {"sentences": 4, "complete": True}]
)
def test_unfinished_build_is_refused(tmp_path, record):
    (tmp_path / "build.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run build_batches.py again"):
        DataReader(fill(tmp_path, range(3)), "unc_val")


def test_damaged_sample_is_told_at_its_place(tmp_path):
    folder = fill(tmp_path, range(4))
    os.truncate(batches.sample_file(folder, "unc_val", 2), 100)
    with DataReader(folder, "unc_val", shuffle=False) as reader:
        assert read(reader, 2) == [0, 1]
        with pytest.raises(UserError, match="unc_val_2.npz"):
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

    monkeypatch.setattr(batches, "read_sample", read_sample)
    folder = fill(tmp_path, range(9))
    with DataReader(folder, "unc_val", shuffle=False, prefetch_num=3) as reader:
        assert all(whole.acquire(timeout=10) for _ in range(3))
        assert not whole.acquire(timeout=0.1)
        reader.read_batch()
        assert whole.acquire(timeout=10)
    assert sorted(loaded) == ["unc_val_{}.npz".format(n) for n in range(4)]
