"""util.training.feeds, with a stand-in for the network."""

import itertools
from unittest import mock

import numpy as np
import pytest

from util.core.errors import UserError
from util.data import im_processing
from util.training import feeds


def sample(height=16, width=24, word=7, value=0):
    return {
        "text_batch": np.array([0] * 19 + [word], np.int32),
        "im_batch": np.full((height, width, 3), value, np.uint8),
        "mask_batch": np.zeros((height, width), bool),
        "sent_batch": [f"sentence {value}"],
    }


class Reader:
    """Gives some samples again and again; raises those that are errors."""

    def __init__(self, *samples):
        self._samples = itertools.cycle(enumerate(samples))
        self.num_batch, self.position = len(samples), 0

    def read_batch(self):
        self.number, found = next(self._samples)
        self.position += 1
        if isinstance(found, Exception):
            raise found
        return found


def fitting(*samples, **options):
    return feeds.fitting_samples(Reader(*samples), 16, 24, 8, **options)


def test_samples_are_given_for_ever_and_say_where_they_are_from():
    samples = fitting(sample(), sample(value=1))
    found = [next(samples) for _ in range(5)]
    assert [one["im_batch"][0, 0, 0] for one in found] == [0, 1, 0, 1, 0]
    assert [one["number"] for one in found] == [0, 1, 0, 1, 0]
    assert [one["position"] for one in found] == [1, 2, 3, 4, 5]
    assert [one["skipped"] for one in found] == [0] * 5


BAD = [
    (sample(24, 16, value=1), "'sentence 1' is 16x24 pixels, the first one 24x16"),
    (sample(word=8, value=1), "'sentence 1' has word 8, .* has 8 words"),
    (UserError("cannot read the sample 1"), "cannot read the sample 1"),
]


@pytest.mark.parametrize("other, told", BAD)
def test_sample_that_is_damaged_or_does_not_fit_is_named(other, told):
    samples = fitting(sample(), other)
    next(samples)
    with pytest.raises(UserError, match=told):
        next(samples)


@pytest.mark.parametrize("other, told", BAD)
def test_damaged_samples_are_skipped_on_request(other, told, capsys):
    samples = fitting(sample(), other, sample(value=2), skip_damaged=True)
    found = [next(samples) for _ in range(4)]
    assert [one["number"] for one in found] == [0, 2, 0, 2]
    assert [one["position"] for one in found] == [1, 3, 4, 6]
    assert [one["skipped"] for one in found] == [0, 1, 1, 2]
    assert capsys.readouterr().out.count("skipped: ") == 2


def test_a_split_that_is_damaged_throughout_is_an_error():
    samples = fitting(*[UserError("cannot read")] * 3, skip_damaged=True)
    with pytest.raises(UserError, match="cannot read"):
        next(samples)


def test_feeds_are_batches_in_order():
    model = mock.Mock()
    model.im.shape.as_list.return_value = [2, 16, 24, 3]
    model.words.shape.as_list.return_value = [2, 12]
    samples = [sample(value=n, word=n) for n in range(6)]
    found = feeds.feeds(model, iter(samples))
    next(found)
    values, batch = next(found)
    assert batch == samples[2:4]
    assert values[model.words].shape == (2, 12)
    assert values[model.words][:, -1].tolist() == [2, 3]
    assert values[model.im].dtype == np.float32
    # BGR, minus the mean
    np.testing.assert_allclose(values[model.im][1, 0, 0], 3 - im_processing.MEAN_BGR)
    assert values[model.target_fine].shape == (2, 16, 24, 1)
