"""util.evaluation.evaluate, with a stand-in for the network."""

import json
import os
import platform
import threading
from concurrent.futures import Future

import numpy as np
import pytest
import recipe

from util.core.errors import UserError
from util.data import im_processing
from util.evaluation import breakdown, evaluate
from util.evaluation.eval_tools import BASE, TITLES, WITH_CRF, WITHOUT_CRF
from util.graph.compat import tf
from util.inference import dense_crf
from util.inference.predictor import Outputs

SIDE = 32


class Constant:
    """A predictor that finds the same logits in every image.

    Attributes:
      calls: what it was asked, in order.
    """

    vocab_size, together, rounds = 50, 1, 0

    def __init__(self, logits):
        self.logits = np.full((SIDE, SIDE), logits, np.float32)
        self.calls = []

    def fit(self, image):
        return im_processing.fit_image(image, SIDE, SIDE)

    def find_all(self, images, ids, shows, probability):
        self.asked = shows, probability
        assert {image.shape for image in images} == {(SIDE, SIDE, 3)}
        self.calls.append([words[-1] for some in ids for words in some])
        return [self.find(some) for some in ids]

    def find(self, ids):
        logits = np.stack([self.logits] * len(ids))
        weights = np.repeat(ids[:, :, np.newaxis], 4, axis=2).astype(np.float32)
        return Outputs(logits, 1 / (1 + np.exp(-logits)), weights, {})


class Workers:
    """Workers that refine at once, by a function of an image and one probability."""

    jobs = 1

    def __init__(self, refine):
        self.refine = refine

    def submit(self, image, probabilities):
        future = Future()
        future.set_result(np.array([self.refine(image, p) for p in probabilities]))
        return future

    def result(self, future, what):
        return future.result()


def find(predictor, samples, workers=None):
    return evaluate.find_masks([predictor], enumerate(samples), workers)


def sample(height=24, width=32, word=7, rows=12):
    """Return a sample whose object fills the upper `rows` rows."""
    mask = np.zeros((height, width), bool)
    mask[:rows] = True
    return {
        "text_batch": np.array([0] * 19 + [word], np.int32),
        "im_batch": recipe.image(word, height, width),
        "mask_batch": mask,
        "sent_batch": [f"word {word}"],
        "im_name_batch": [f"{word}.jpg"],
    }


def test_samples_are_segmented_in_order_and_in_their_own_size():
    predictor = Constant(1.0)
    samples = [sample(24, 32, word=3), sample(40, 20, word=4)]
    results = list(find(predictor, samples))
    assert sorted(predictor.calls) == [[3], [4]]
    assert [result.number for result in results] == [0, 1]
    for result, one in zip(results, samples):
        assert result.sample is one
        assert set(result.masks) == {WITHOUT_CRF}
        mask = result.masks[WITHOUT_CRF]
        assert mask.dtype == bool and mask.shape == one["mask_batch"].shape
        assert mask.all()


@pytest.mark.parametrize("logit, found", [(0.0, 0), (1e-10, 0), (1e-9, 1), (1.0, 1)])
def test_foreground_begins_at_1e_9(logit, found):
    (result,) = find(Constant(logit), [sample()])
    assert result.masks[WITHOUT_CRF].mean() == found


def test_mask_that_was_found_is_brought_back_from_the_padded_image():
    predictor = Constant(-1.0)
    # An image of 16 x 32 lies in the rows 8 to 24 of the network's input.
    predictor.logits[8:16] = 1.0
    (result,) = find(predictor, [sample(16, 32)])
    wanted = np.zeros((16, 32), bool)
    wanted[:8] = True
    np.testing.assert_array_equal(result.masks[WITHOUT_CRF], wanted)


def test_crf_sees_the_padded_image_and_the_probability():
    seen = []

    def refine(image, probability):
        seen.append((image, probability))
        return np.ones(probability.shape, bool)

    one, predictor = sample(16, 32), Constant(-2.0)
    (result,) = find(predictor, [one], Workers(refine))
    ((image, probability),) = seen
    padded = im_processing.fit_image(one["im_batch"], SIDE, SIDE)
    np.testing.assert_array_equal(image, padded)
    assert image.dtype == np.uint8 and not image[:8].any() and image[8:24].any()
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(2)), rtol=1e-6)
    assert list(result.masks) == [WITHOUT_CRF, WITH_CRF]
    assert not result.masks[WITHOUT_CRF].any() and result.masks[WITH_CRF].all()
    assert evaluate.best_mask(result) is result.masks[WITH_CRF]


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("use_crf", [False, True])
def test_only_what_is_used_is_asked_for(rounds, use_crf):
    """Levels are for rounds, and probabilities for DenseCRF."""
    predictor = Constant(1.0)
    predictor.rounds = rounds
    workers = Workers(lambda image, p: p > 0.5) if use_crf else None
    list(find(predictor, [sample()], workers))
    assert predictor.asked == (rounds > 0, use_crf)


def test_rounds_before_the_answer_become_masks():
    """Each as the answer: on the object above 0, back in the size of the image."""
    (result,) = find(Constant(1.0), [sample(16, 32)])
    first = np.zeros((SIDE, SIDE), np.float32)
    first[8:16] = np.nextafter(np.float32(0.5), np.float32(1))
    second = np.full_like(first, 0.5)
    levels = {"heat_1": first, "round_1": first, "heat_2": first, "round_2": second}
    found = evaluate.with_masks_of_rounds(result._replace(levels=levels))
    assert list(found.masks) == [WITHOUT_CRF, "round_1", "round_2"]
    assert found.levels == {} and found.masks[WITHOUT_CRF].all()
    wanted = np.zeros((16, 32), bool)
    wanted[:8] = True
    np.testing.assert_array_equal(found.masks["round_1"], wanted)
    assert not found.masks["round_2"].any()
    (row,) = evaluate.Results.of([found]).samples
    assert row["round_1"] == {"intersection": 256, "union": 12 * 32}
    assert list(evaluate.Results.of([found]).scores) == [WITHOUT_CRF]


def test_base_score_is_a_third_block_and_part_of_the_record(tmp_path):
    """The base score finds the upper half, the last one the whole image."""

    class Refined(Constant):
        def find(self, ids):
            found = super().find(ids)
            base = found.logits.copy()
            base[:, SIDE // 2 :] = -1.0
            return found._replace(base_logits=base)

    one = sample(SIDE, SIDE)
    one["mask_batch"] = np.ones([SIDE, SIDE], bool)
    (result,) = find(Refined(1.0), [one])
    assert result.masks[BASE].mean() == 0.5 and result.masks[WITHOUT_CRF].all()
    results = evaluate.Results.of([result])
    lines = results.report().splitlines()
    assert lines[6] == "overall IoU = 1.0000; mean IoU = 1.0000"
    assert lines[7] == "Segmentation evaluation (base score, without DenseCRF):"
    assert lines[-1] == "overall base IoU = 0.5000; mean IoU = 0.5000"
    about = {"model": "CMPC_model", "options": {"refine": "score"}}
    path = evaluate.write_record(str(tmp_path / "s"), "unc", "val", results, **about)
    record = breakdown.read_record(path)
    assert record["results"][BASE]["overall_iou"] == 0.5


def test_words_beyond_the_vocabulary_are_refused():
    samples = [sample(word=49), sample(word=50)]
    results = find(Constant(1.0), samples)
    assert next(results).number == 0
    with pytest.raises(UserError, match="sample 1 has word 50, .* knows 50 words"):
        next(results)


def same_image(*words):
    one = sample(word=1)
    return [dict(one, text_batch=sample(word=word)["text_batch"]) for word in words]


@pytest.mark.parametrize("workers", [None, Workers(lambda image, p: p > 2)])
def test_sentences_of_an_image_are_segmented_together(monkeypatch, workers):
    monkeypatch.setattr(evaluate, "GROUP", 3)
    predictor = Constant(1.0)
    samples = same_image(3, 4, 5, 6) + [sample(word=7)] + same_image(8)
    results = list(find(predictor, samples, workers))
    assert sorted(predictor.calls) == [[3, 4, 5], [6], [7], [8]]
    assert [result.number for result in results] == [0, 1, 2, 3, 4, 5]
    for result, word in zip(results, [3, 4, 5, 6, 7, 8]):
        assert result.sample["text_batch"][-1] == word
        assert result.word_weights.tolist() == [[0] * 4] * 19 + [[word] * 4]


def test_the_network_runs_ahead_of_what_is_done_with_its_results(monkeypatch):
    """By two images, not by all: memory does not grow with the data set."""
    ahead = threading.Semaphore(0)

    class Ahead(Constant):
        def find(self, ids):
            found = super().find(ids)
            ahead.release()
            return found

    predictor = Ahead(1.0)
    results = find(predictor, (sample(word=word) for word in range(1, 30)))
    for seen in range(1, 28):
        assert next(results).number == seen - 1
        assert ahead.acquire(timeout=10)
        assert seen <= len(predictor.calls) <= seen + 2
    for _ in range(2):  # those after the one that was asked for last
        assert ahead.acquire(timeout=10)
    results.close()


def test_images_are_fitted_while_the_network_runs():
    """The network answers about an image when the next one is ready."""
    ready = threading.Semaphore(0)

    class Waiting(Constant):
        def fit(self, image):
            fitted = super().fit(image)
            ready.release()
            return fitted

        def find(self, ids):
            if ids[0, -1] == 1:
                for _ in range(2):
                    assert ready.acquire(timeout=10)
            return super().find(ids)

    assert len(list(find(Waiting(1.0), [sample(word=1), sample(word=2)]))) == 2


def test_a_damaged_sample_ends_the_test_in_its_place():
    def samples():
        yield from [sample(word=1), sample(word=2)]
        raise UserError("cannot read s_2.npz")

    results = find(Constant(1.0), samples())
    assert next(results).number == 0
    with pytest.raises(UserError, match="s_2.npz"):
        next(results)


@pytest.mark.parametrize(
    "together, runs",
    [
        (1, [[3, 4], [5], [6], [7, 8, 9], [10]]),
        (2, [[3, 4], [5, 6], [7, 8, 9], [10]]),
        (4, [[3, 4, 5, 6], [7, 8, 9, 10]]),
        (24, [[3, 4, 5, 6, 7, 8, 9, 10]]),
    ],
)
def test_images_with_few_sentences_share_a_run(monkeypatch, together, runs):
    monkeypatch.setattr(evaluate, "GROUP", 3)
    predictor = Constant(1.0)
    predictor.together = together
    images = [same_image(3, 4), [sample(word=5)], [sample(word=6)]]
    images.append(same_image(7, 8, 9, 10))
    samples = [one for some in images for one in some]
    refined = []
    workers = Workers(lambda image, p: refined.append(image) or p > 2)
    results = list(find(predictor, samples, workers))
    assert sorted(predictor.calls) == runs
    for place, (result, one) in enumerate(zip(results, samples)):
        assert result.number == place and result.sample is one
        assert result.word_weights[-1].tolist() == [place + 3] * 4
        fitted = im_processing.fit_image(one["im_batch"], SIDE, SIDE)
        np.testing.assert_array_equal(refined[place], fitted)
    assert len(results) == len(refined) == len(samples)


def test_devices_take_turns_and_results_keep_their_order():
    second = threading.Event()

    class First(Constant):
        def find(self, ids):
            assert second.wait(10)
            return super().find(ids)

    class Second(Constant):
        def find(self, ids):
            found = super().find(ids)
            second.set()
            return found

    samples = [sample(word=word) for word in range(3, 10)]
    predictors = First(1.0), Second(-1.0)
    results = list(evaluate.find_masks(predictors, enumerate(samples)))
    assert [result.number for result in results] == list(range(7))
    assert [one.sample["text_batch"][-1] for one in results] == list(range(3, 10))
    assert [one.masks[WITHOUT_CRF].any() for one in results] == [True, False] * 3 + [
        True
    ]
    calls = [sorted(predictor.calls) for predictor in predictors]
    assert calls == [[[3], [5], [7], [9]], [[4], [6], [8]]]


def test_scores_do_not_depend_on_the_order_of_results():
    results = list(find(Constant(1.0), [sample(rows=n) for n in (3, 7, 11)]))
    forth, back = (evaluate.Results.of(some) for some in (results, results[::-1]))
    assert forth.report() == back.report() and forth.samples == back.samples
    assert [row["number"] for row in back.samples] == [0, 1, 2]


def test_asking_for_scores_changes_nothing():
    results = evaluate.Results()
    first, second = find(Constant(1.0), [sample(rows=3), sample(rows=7)])
    results.add(second)
    assert results.scores[WITHOUT_CRF].count == 1
    row = results.add(first)
    assert (row["number"], row["area"]) == (0, 96)
    assert results.report() == evaluate.Results.of([first, second]).report()


def test_a_worker_that_dies_is_reported_with_its_samples():
    with dense_crf.Workers(1) as workers:
        workers._pool.submit(os._exit, 1)
        with pytest.raises(
            UserError, match="one of the samples 0, 1: a DenseCRF process died"
        ):
            list(find(Constant(1.0), same_image(3, 4), workers))


def results_of(logit, samples):
    return evaluate.Results.of(find(Constant(logit), samples))


def test_results_of_fewer_than_50_samples():
    """All pixels found: IoU 12 / 24 and 18 / 24 of 32 columns."""
    scores = results_of(1.0, [sample(rows=12), sample(rows=18)])
    described = {"sentence": "word 7", "words": 1, "image": "7.jpg"}
    described.update(height=24, width=32)
    counts = {"number": 0, "area": 384}, {"intersection": 384, "union": 768}
    assert scores.samples[0] == {**described, **counts[0], WITHOUT_CRF: counts[1]}
    counts = {"number": 1, "area": 576}, {"intersection": 576, "union": 768}
    assert scores.samples[1] == {**described, **counts[0], WITHOUT_CRF: counts[1]}
    assert scores.report().splitlines() == [
        "Segmentation evaluation (without DenseCRF):",
        "precision@0.5 = 1.0000",
        "precision@0.6 = 0.5000",
        "precision@0.7 = 0.5000",
        "precision@0.8 = 0.0000",
        "precision@0.9 = 0.0000",
        "overall IoU = 0.6250; mean IoU = 0.6250",
    ]


def test_results_of_empty_masks():
    scores = results_of(-1.0, [sample(rows=0), sample(rows=12)])
    lines = scores.report().splitlines()
    assert lines[-2] == "overall IoU = 0.0000; mean IoU = 0.5000"
    assert lines[-1].startswith("1 of 2 samples had an empty mask and an empty pred")


def test_both_blocks_are_reported():
    workers = Workers(lambda image, p: np.zeros(p.shape, bool))
    found = find(Constant(1.0), [sample(rows=24)], workers)
    text = evaluate.Results.of(found).report()
    first, second = text.split("Segmentation evaluation (with DenseCRF):\n")
    assert first.startswith("Segmentation evaluation (without DenseCRF):\n")
    assert "overall IoU = 1.0000" in first and "overall IoU = 0.0000" in second


def test_record_beside_the_snapshot(tmp_path):
    snapshot = str(tmp_path / "unc_iter_7.tfmodel")
    scores = results_of(1.0, [sample(rows=12), sample(rows=18)])
    about = {"model": "CMPC_model", "options": {}}
    path = evaluate.write_record(
        snapshot, "unc", "testA", scores, True, demo=5, **about
    )
    assert path == snapshot + ".testA.json"
    record = json.loads((tmp_path / "unc_iter_7.tfmodel.testA.json").read_text())
    versions = record.pop("versions")
    assert versions["python"] == platform.python_version()
    assert versions["tensorflow"] == tf.VERSION
    assert versions["numpy"] == np.__version__
    assert set(versions) == {"python", "tensorflow", "numpy", "scikit-image"}
    assert record == {
        "data_set": "unc",
        "split": "testA",
        "snapshot": snapshot,
        **about,
        "results": {
            "without DenseCRF": {
                "precision@0.5": 1.0,
                "precision@0.6": 0.5,
                "precision@0.7": 0.5,
                "precision@0.8": 0.0,
                "precision@0.9": 0.0,
                "overall_iou": 0.625,
                "mean_iou": 0.625,
                "count": 2,
                "num_empty": 0,
            }
        },
        "samples": [
            {TITLES.get(key, key): value for key, value in row.items()}
            for row in scores.samples
        ],
        "demo": 5,
    }
    assert record["samples"][1]["without DenseCRF"]["union"] == 768
