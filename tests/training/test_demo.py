"""util.training.demo at a tiny scale, and its figures by hand."""

import dataclasses
import json

import numpy as np
import pytest
from networks import small_backbone
from PIL import Image

import trainval_model
from CMPC_model import LSTM_model
from util.data import datasets, samples, shapes
from util.data.samples import read_sample
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF
from util.evaluation.evaluate import Result
from util.graph import checkpoint
from util.training import demo, loop, pretraining

SMALL = dict(input_size=64, v_emb_dim=16, mlp_dim=8)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demo with few scenes, steps and channels.

    Returns:
      (folder, figures, events): events are the seed of the backbone, the samples read
      and the end of training.
    """
    folder = tmp_path_factory.mktemp("demo")
    data = str(folder / "data")
    shapes.draw(data, num_scenes={"train": 5, "val": 1, "test": 3})
    tiny = dataclasses.replace(datasets.DATASETS["shapes"], **SMALL)
    events = []
    read, take_steps = read_sample, loop.Loop.run
    pretrain = pretraining.pretrain

    def noted_read(path):
        events.append(path)
        return read(path)

    def noted_run(steps, feed):
        snapshot = take_steps(steps, feed)
        events.append("trained")
        return snapshot

    def noted_pretraining(path, images, maps, units, width, steps, seed, threads):
        events.append(f"backbone, seed {seed}")
        pretrain(path, images, maps, units, width, steps, seed, threads)

    line = ["-m", "demo", "--data", data, "-f", str(folder / "ckpts"), "--seed", "7"]
    patch = pytest.MonkeyPatch()
    with small_backbone(), patch.context() as patched:
        patched.setitem(datasets.DATASETS, "shapes", tiny)
        patched.setattr(samples, "read_sample", noted_read)
        patched.setattr(loop.Loop, "run", noted_run)
        patched.setattr(pretraining, "pretrain", noted_pretraining)
        patched.setattr(demo, "STEPS", 2)
        patched.setattr(demo, "BACKBONE_STEPS", 2)
        patched.setattr(demo, "cores", lambda: 1)
        figures = demo.run(LSTM_model, trainval_model.parse(line))
    return folder, figures, events


def test_figures_are_returned_and_written(shown):
    folder, figures, _ = shown
    names = ["blind_iou", "overall_iou", "pair_accuracy", "relations_iou"]
    assert sorted(figures) == names
    assert all(0 <= figure <= 1 for figure in figures.values())
    path = folder / "ckpts" / "shapes_iter_2.tfmodel.test.json"
    record = json.loads(path.read_text())
    assert record["demo"] == figures
    about = record["model"], record["options"]
    assert about == ("CMPC_model", {"loss": "region"})
    snapshot = str(path)[: -len(".test.json")]
    assert record["weights"] == checkpoint.fingerprint(snapshot)
    assert list(record["results"]) == [TITLES[WITHOUT_CRF], TITLES[WITH_CRF]]
    overall = record["results"][TITLES[WITH_CRF]]["overall_iou"]
    assert overall == figures["overall_iou"]
    words = "above", "below", "left of", "right of"
    counts = [
        row[TITLES[WITH_CRF]]
        for row in record["samples"]
        if any(word in row["sentence"] for word in words)
    ]
    assert 0 < len(counts) < len(record["samples"])
    common, total = (
        sum(count[name] for count in counts) for name in ("intersection", "union")
    )
    assert figures["relations_iou"] == pytest.approx(common / total)


def test_the_demo_leaves_what_training_leaves(shown):
    folder = shown[0] / "ckpts"
    record = json.loads((folder / "run.json").read_text())
    assert (record["batch_size"], record["sentences_per_image"]) == (16, 8)
    assert record["steps"] == 2 and record["samples"] == 5 * 8
    assert record["model_options"] == {"loss": "region"}
    assert (folder / "vocabulary.txt").exists()
    (line,) = (folder / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2


def test_a_seed_draws_backbone_and_network(shown):
    folder, _, events = shown
    assert "backbone, seed 7" in events
    assert json.loads((folder / "ckpts" / "run.json").read_text())["seed"] == 7


def test_contact_sheet_shows_two_scenes_with_two_sentences(shown):
    with Image.open(str(shown[0] / "ckpts" / "demo.png")) as sheet:
        # Two results of three panels side by side, in two rows.
        assert sheet.width > 6 * 200 and sheet.height > 2 * 200


def test_no_test_scene_is_read_before_training_has_ended(shown):
    events = shown[2]
    trained = events.index("trained")
    assert any("shapes_train_" in path for path in events[:trained])
    assert not any("shapes_test_" in path for path in events[:trained])
    assert any("shapes_test_" in path for path in events[trained:])


def box(left, right):
    mask = np.zeros((4, 12), bool)
    mask[:, left:right] = True
    return mask


LEFT, RIGHT, NONE = box(0, 4), box(8, 12), box(0, 0)


def result(image, true, found, sentence="x", refined=None):
    sample = {
        "im_name_batch": [image],
        "im_batch": np.zeros((4, 12, 3), np.uint8),
        "mask_batch": true,
        "sent_batch": [sentence],
        "text_batch": np.zeros(20, np.int32),
    }
    refined = found if refined is None else refined
    return Result(0, sample, {WITHOUT_CRF: found, WITH_CRF: refined})


@pytest.mark.parametrize(
    "first, second, share",
    [
        (LEFT, RIGHT, 1),
        (RIGHT, LEFT, 0),
        (LEFT, LEFT, 0),
        (LEFT | RIGHT, LEFT | RIGHT, 0),
        (NONE, NONE, 0),
        (LEFT | box(8, 9), RIGHT | box(0, 3), 1),
        (LEFT | box(8, 9), RIGHT | LEFT, 0),
    ],
)
def test_told_apart_when_each_mask_overlaps_its_own_object_more(first, second, share):
    results = [result("a", LEFT, first), result("a", RIGHT, second)]
    assert demo.pair_accuracy(results) == share


def test_told_apart_by_what_the_network_found():
    """DenseCRF may wipe out an unsure mask."""
    results = [
        result("a", LEFT, LEFT, refined=NONE),
        result("a", RIGHT, RIGHT, refined=LEFT),
    ]
    assert demo.pair_accuracy(results) == 1


def test_told_apart_counts_pairs_about_two_objects_of_one_scene():
    results = [
        result("a", LEFT, LEFT),
        result("b", RIGHT, LEFT),  # the only one about its scene
        result("a", LEFT, LEFT),  # another sentence about the same object
        result("a", RIGHT, RIGHT),
        result("a", RIGHT, LEFT),  # wrong, in both of its pairs
    ]
    assert demo.pair_accuracy(results) == 2 / 4


def test_chosen_rows_have_different_objects_side_by_side():
    results = [
        result("a", LEFT, LEFT, "1"),
        result("b", LEFT, RIGHT, "2"),
        result("a", LEFT, LEFT, "the same object as 1"),
        result("b", RIGHT, RIGHT, "3"),
        result("a", RIGHT, NONE, "4"),
    ]
    rows = demo.choose(results)
    assert [row[3] for row in rows] == ["1", "4", "2", "3"]
    _, true, found, _, _ = rows[2]
    assert true is LEFT and found is RIGHT


def test_at_most_so_many_scenes_are_chosen():
    results = [
        result(str(scene), mask, mask) for scene in range(20) for mask in (LEFT, RIGHT)
    ]
    assert len(demo.choose(results)) == demo.SHEET_SCENES * demo.SHEET_SENTENCES


def test_shuffled_sentences_are_the_same_ones_in_another_order():
    samples = [
        dict(result(str(n), LEFT, LEFT).sample, text_batch=np.full(20, n))
        for n in range(30)
    ]
    blind = demo.shuffle_sentences(samples)
    ids = [int(sample["text_batch"][0]) for sample in blind]
    assert sorted(ids) == list(range(30))
    assert sum(n == found for n, found in enumerate(ids)) < 5
    assert [sample["im_name_batch"] for sample in blind] == [
        sample["im_name_batch"] for sample in samples
    ]
    assert all((sample["text_batch"] == n).all() for n, sample in enumerate(samples))
