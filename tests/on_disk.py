"""Samples on disk as tests look at them, in whichever layout."""

import os

import numpy as np
import tiny_sets

from util.data.samples import open_samples

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = tiny_sets.box(4, 6, (1, 3, 2, 5))
IDS = [0] * 18 + [4, 5]


def write(path, **changes):
    """Write a sample as the reference does, with some arrays changed."""
    arrays = dict(text_batch=IDS, im_batch=IMAGE, mask_batch=MASK, sent_batch=["a b"])
    np.savez(path, **dict(arrays, **changes))
    return path


def contents(folder):
    """Return file name -> bytes of a folder."""
    files = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            files[name] = file.read()
    return files


def read_all(folder, prefix="unc_train"):
    samples = open_samples(folder, prefix)
    return [samples.read(number) for number in range(len(samples))]


def check_same(samples, others):
    """Check that two lists of samples are equal in values, types and order of keys."""
    assert len(samples) == len(others)
    for sample, other in zip(samples, others):
        assert list(sample) == list(other)
        for key, value in sample.items():
            assert type(value) is type(other[key])
            assert np.asarray(value).dtype == np.asarray(other[key]).dtype
            np.testing.assert_array_equal(value, other[key])
