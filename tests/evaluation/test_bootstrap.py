"""util.evaluation.bootstrap against a slow computation of the same draws."""

import numpy as np
import pytest
from test_breakdown import row

from util.evaluation import bootstrap, breakdown
from util.evaluation.eval_tools import WITHOUT_CRF, Scores


def draw_rows(seed, images=30):
    """Return rows of random IoU, shuffled; an image has one to four sentences."""
    random = np.random.RandomState(seed)
    rows = []
    for image in range(images):
        for _ in range(random.randint(1, 5)):
            union = random.randint(0, 2) * random.randint(1, 10**8)
            counts = random.randint(0, union + 1), union
            rows.append(row(len(rows), iou=tuple(map(int, counts)), image=str(image)))
    return [rows[place] for place in random.permutation(len(rows))]


def slowly(*tests):
    """Return the figures of each draw of each test, sentence by sentence."""
    random = np.random.RandomState(bootstrap.SEED)
    images = list(dict.fromkeys(one["image"] for one in tests[0]))
    drawn = []
    for _ in range(bootstrap.DRAWS):
        chosen = [
            images[place] for place in random.randint(len(images), size=len(images))
        ]
        figures = []
        for rows in tests:
            scores = Scores()
            for image in chosen:
                for one in rows:
                    if one["image"] == image:
                        scores.add(**one[WITHOUT_CRF])
            figures.append([scores.overall_iou, scores.mean_iou])
        drawn.append(figures)
    return np.array(drawn)


def middle(values):
    """Return the ends of the middle 95 of 100, between the two nearest values."""
    values, ends = sorted(values), []
    for share in (0.025, 0.975):
        place = share * (len(values) - 1)
        below = int(place)
        step = values[below + 1] - values[below]
        ends.append(values[below] + (place - below) * step)
    return pytest.approx(tuple(ends), abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_intervals_are_those_of_the_sentences_of_the_drawn_images(seed):
    rows = draw_rows(seed)
    figures = slowly(rows)[:, 0].T
    found = bootstrap.intervals(rows, WITHOUT_CRF)
    assert list(found) == ["overall_iou", "mean_iou"]
    for name, values in zip(found, figures):
        assert found[name] == middle(values), name
        assert 0 < found[name][0] < found[name][1] < 1


def test_differences_are_those_of_the_same_draws():
    before = draw_rows(3)
    after = [dict(one, **{WITHOUT_CRF: dict(one[WITHOUT_CRF])}) for one in before]
    for one in after[::2]:
        one[WITHOUT_CRF]["intersection"] = one[WITHOUT_CRF]["union"] // 2
    found = bootstrap.differences(before, after, WITHOUT_CRF)
    figures = slowly(before, after)
    for name, values in zip(found, (figures[:, 1] - figures[:, 0]).T):
        assert found[name] == middle(values), name
    assert bootstrap.differences(before, before, WITHOUT_CRF) == {
        "overall_iou": (0, 0),
        "mean_iou": (0, 0),
    }


def test_mean_of_one_sentence_an_image_has_the_interval_of_theory():
    random = np.random.RandomState(5)
    ious = random.randint(0, 101, 400)
    rows = [row(n, iou=(int(x), 100), image=f"{n}") for n, x in enumerate(ious)]
    half = 1.96 * np.std(ious / 100) / np.sqrt(400)
    low, high = bootstrap.intervals(rows, WITHOUT_CRF)["mean_iou"]
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert (low + high) / 2 == pytest.approx(np.mean(ious / 100), abs=half / 10)


def test_sentences_of_one_image_say_less_than_those_of_many():
    """All sentences of an image are alike: more of them make nothing more sure."""
    one_each = [row(n, iou=(n % 5, 5), image=f"{n}") for n in range(50)]
    ten_each = [
        dict(one, number=10 * one["number"] + k) for one in one_each for k in range(10)
    ]
    found = bootstrap.intervals(one_each, WITHOUT_CRF)
    again = bootstrap.intervals(ten_each, WITHOUT_CRF)
    for name in found:
        assert again[name] == pytest.approx(found[name], abs=1e-12)


@pytest.mark.parametrize("names", [[""] * 30, ["a"] * 30, list("abcdefghijklmnopqrs")])
def test_too_few_images_or_unknown_ones_give_no_interval(names):
    rows = [row(n, image=name) for n, name in enumerate(names)]
    assert not bootstrap.has_enough_images(rows)
    assert bootstrap.summary(rows) is None


def test_summary_is_written_and_said():
    rows = draw_rows(1)
    found = bootstrap.summary(rows)
    low, high = found[WITHOUT_CRF]["overall_iou"]
    assert (found["percent"], found["draws"], found["seed"]) == (95, 1000, 0)
    assert found["images"] == 30
    first, line = bootstrap.describe(found).splitlines()
    assert first == "95 % interval (bootstrap over 30 images, 1000 draws, seed 0):"
    assert line.startswith(f"without DenseCRF: oIoU {low:.4f} to {high:.4f}; mIoU 0.")


def test_tests_are_paired_by_number_sentence_and_object():
    rows = [row(n, f"s {n}") for n in range(3)]
    assert breakdown.paired(rows[::-1], rows) == [rows, rows]
    for other, what in (
        (rows[:2], "different sentences"),
        ([*rows[:2], row(2, "other")], "different sentences"),
        ([*rows[:2], row(2, "s 2", area=51)], "true masks of the two tests differ"),
    ):
        with pytest.raises(ValueError, match=what):
            breakdown.paired(rows, other)
