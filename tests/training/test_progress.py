"""util.training.progress: accuracies by hand, averages, and the form of the lines."""

import re
from unittest import mock

import numpy as np
import pytest

from util.training import progress


def maps(rows):
    """Return float32 [1, rows, columns, 1]."""
    return np.array(rows, np.float32)[np.newaxis, :, :, np.newaxis]


def test_accuracies_by_hand():
    # A score of 0 counts as found, and a target of 0.1 as on the object.
    scores = maps([[0.0, 3.0, -1.0], [-2.0, 5.0, -0.5]])
    target = maps([[1.0, 0.1, 1.0], [0.0, 0.0, 0.0]])
    # On the object 2 of 3 are right, off it 2 of 3, in all 4 of 6.
    assert progress.accuracies(scores, target) == pytest.approx(
        (4 / 6, 2 / (3 + 1), 2 / 3)
    )


def test_accuracies_of_masks_that_are_empty_or_full():
    scores = maps([[1.0, -1.0]])
    assert progress.accuracies(scores, maps([[0, 0]])) == pytest.approx((0.5, 0, 0.5))
    assert progress.accuracies(scores, maps([[1, 1]])) == pytest.approx((0.5, 1 / 3, 0))


def test_accuracies_of_a_batch_are_over_all_its_cells():
    scores = np.concatenate([maps([[1.0, 1.0]]), maps([[-1.0, -1.0]])])
    target = np.concatenate([maps([[1.0, 0.0]]), maps([[1.0, 0.0]])])
    assert progress.accuracies(scores, target) == pytest.approx((0.5, 1 / 3, 0.5))


RIGHT = maps([[1.0, -1.0]]), maps([[1.0, 0.0]])
NUMBER = r"[0-9]+\.[0-9]{4}"
LOSS = re.compile(
    r"iter = (\d+), loss \(cur\) = (N), loss \(avg\) = (N), lr = (0\.\d{8})".replace(
        "N", NUMBER
    )
)
ACCURACY = r"iter = \d+, accuracy \(WHICH\) = (N) \(all\), (N) \(pos\), (N) \(neg\)"


def shares(line, which):
    """Return the three numbers of a line of accuracies."""
    pattern = ACCURACY.replace("N", NUMBER).replace("WHICH", which)
    return re.fullmatch(pattern, line).groups()


def lines(averages, step, learning_rate):
    figures, seconds = averages.figures(), averages.lap()
    return progress.lines(step, figures, learning_rate, seconds)


def test_a_run_that_is_resumed_goes_on_with_its_averages():
    through, before = progress.Progress(), progress.Progress()
    for loss in (3.0, 5.0, 8.0):
        through.add(loss, *RIGHT)
    before.add(3.0, *RIGHT)
    after = progress.Progress(before.averages())
    for loss in (5.0, 8.0):
        after.add(loss, *RIGHT)
    assert after.averages() == through.averages() != before.averages()
    assert after.figures()["loss"] == 8.0


def test_lines_are_those_that_people_grep():
    averages = progress.Progress()
    averages.add(71000.0, *RIGHT)
    averages.add(70000.0, *RIGHT)
    loss, now, average, seconds = lines(averages, 200, 0.00024998).split("\n")
    # (1 - 0.99) * 71000, and then 0.99 of it + 0.01 * 70000
    assert LOSS.fullmatch(loss).groups() == (
        "200",
        "70000.0000",
        "1402.9000",
        "0.00024998",
    )
    assert shares(now, "cur") == ("1.0000", "0.5000", "1.0000")
    assert shares(average, "avg") == ("0.0199", "0.0100", "0.0199")
    assert re.fullmatch(f"iter = 200, time = {NUMBER} s a step", seconds)


def test_averages_decay_by_a_hundredth_a_step():
    averages = progress.Progress()
    for _ in range(300):
        averages.add(1000.0, *RIGHT)
    loss, _, average, _ = lines(averages, 300, 0.1).split("\n")
    wanted = 1 - 0.99**300
    assert float(LOSS.fullmatch(loss).group(3)) == pytest.approx(1000 * wanted)
    assert float(shares(average, "avg")[0]) == pytest.approx(wanted, abs=1e-4)


def test_nothing_is_computed_until_figures_are_asked_for(monkeypatch):
    computed = []

    def accuracies(scores, target):
        computed.append(scores)
        return 1.0, 1.0, 1.0

    monkeypatch.setattr(progress, "accuracies", accuracies)
    averages = progress.Progress()
    for step in range(3):
        averages.add(1.0, step, None)
    assert computed == []
    lines(averages, 3, 0.1)
    assert computed == [0, 1, 2]
    averages.add(1.0, 3, None)
    lines(averages, 4, 0.1)
    assert computed == [0, 1, 2, 3]


def test_time_is_that_of_a_step_since_the_last_lines(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", mock.Mock(time=lambda: now[0]))
    averages = progress.Progress()
    for _ in range(4):
        averages.add(1.0, *RIGHT)
    now[0] = 110.0
    assert "time = 2.5000 s a step" in lines(averages, 4, 0.1)
    averages.add(1.0, *RIGHT)
    averages.add(1.0, *RIGHT)
    now[0] = 114.0
    assert "time = 2.0000 s a step" in lines(averages, 6, 0.1)


def test_figures_can_be_asked_for_twice():
    averages = progress.Progress()
    averages.add(3.0, *RIGHT)
    assert averages.figures() == averages.figures()
    assert averages.figures()["loss_avg"] == pytest.approx(0.03)


def test_header_says_what_is_trained_on_what():
    run = {
        "model": "CMPC_model",
        "parameters": 62000123,
        "trained_values": 20000000,
        "samples": 120624,
        "data_set": "unc",
        "split": "train",
        "network": {"H": 320, "W": 480},
        "model_options": {},
        "devices": 2,
        "workers": 3,
        "precision": "float32",
        "xla": False,
        "batch_size": 6,
        "steps": 700000,
        "seed": 9,
    }
    assert progress.header(run, "resumed: x").split("\n") == [
        "model: CMPC_model, 62,000,123 parameters, 20,000,000 of them trained",
        "samples: 120,624 of unc train, 480x320 pixels",
        "devices: 2 a worker, workers: 3, precision: float32",
        "batch: 6, until step 700000, seed 9",
        "resumed: x",
    ]
