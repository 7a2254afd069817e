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


def stand_in(batch_size, grouped, devices):
    """Return a stand-in for a model."""
    model = mock.Mock()
    model.words.shape.as_list.return_value = [batch_size, 12]
    model.options.grouped = grouped
    model.options.towers = [] if devices == 1 else [None] * devices
    return model


def test_feeds_are_batches_in_order():
    model = stand_in(2, grouped=False, devices=1)
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


@pytest.mark.parametrize(
    "devices, counts, image_of",
    [(1, [3], [0, 0, 1, 1, 1, 2]), (2, [2, 2], [0, 0, 1, 0, 0, 1])],
)
def test_neighbours_about_one_image_share_it(devices, counts, image_of):
    model = stand_in(6, grouped=True, devices=devices)
    shown = [1, 1, 2, 2, 2, 3]
    samples = [sample(value=value) for value in [*shown, *shown]]
    step, other = itertools.islice(feeds.feeds(model, iter(samples)), 2)
    assert step.samples == samples[:6] and other.samples == samples[6:]
    assert step.values[model.image_counts].tolist() == counts
    assert step.values[model.image_of].tolist() == image_of
    images = step.values[model.im][:, 0, 0, 0] + im_processing.MEAN_BGR[0]
    assert images.round().tolist() == ([1, 2, 3] if devices == 1 else [1, 2, 2, 3])


def test_a_group_goes_on_in_the_next_step():
    model = stand_in(4, grouped=True, devices=1)
    samples = [sample(value=value) for value in (1, 1, 1, 2, 2, 2, 3, 3)]
    first, second = itertools.islice(feeds.feeds(model, iter(samples)), 2)
    assert first.values[model.image_of].tolist() == [0, 0, 0, 1]
    assert second.values[model.image_of].tolist() == [0, 0, 1, 1]
    assert second.samples == samples[4:]


def test_groups_end_with_the_samples():
    model = stand_in(4, grouped=True, devices=1)
    samples = [sample(value=value) for value in (1, 1, 2, 2)]
    groups = list(feeds.step_groups(model, iter(samples)))
    assert [group.samples for group in groups] == [samples[:2], samples[2:]]
    assert [group.is_last for group in groups] == [False, True]


def test_groups_of_images_have_at_most_so_many():
    images = ["b", "a", "b", "b", "a", "b", "b"]
    assert feeds.groups_of_images(images, 3) == [[0, 2, 3], [5, 6], [1, 4]]
