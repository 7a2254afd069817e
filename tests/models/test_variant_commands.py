"""Variants of CMPC go through the commands, and their snapshots need no flags."""

import contextlib
import io
import json
import shutil
from typing import Any, Dict, List, NamedTuple
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
import runs
from networks import SMALL, LSTM_model
from scipy.special import expit

import trainval_model
from util import models
from util.core.errors import UserError
from util.evaluation.eval_tools import BASE, TITLES, WITH_CRF, WITHOUT_CRF
from util.graph import checkpoint
from util.graph.compat import tf
from util.graph.towers import Tower
from util.inference.predictor import Predictor
from util.training import progress, start
from util.training.train import chosen_options

IMAGE, SENTENCE = recipe.image(1, 50, 70), "the red circle"
VARIANTS = ({"refine": "edges"}, {"second_pass": "affinity"}, {"loss": "region"})
LOSSES = {
    "refine": {"loss_refine"},
    "second_pass": {"loss_2", "iou_loss", "iou_loss_2"},
    "loss": {"region_loss"},
}


@contextlib.contextmanager
def quick():
    """Make the backbone small, and log each step."""
    with mock.patch.object(progress, "EVERY", 1):
        with mock.patch.object(start, "CALIBRATION_IMAGES", 2):
            with networks.small_backbone():
                yield


@pytest.fixture(autouse=True)
def all_quick():
    with quick():
        yield


def said_by(*command):
    """Run a command line; return what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert trainval_model.main(list(command)) == 0
    return said.getvalue()


class Trained(NamedTuple):
    """A run from a plain snapshot: 2 steps, and 2 more after it was resumed."""

    chosen: Dict[str, str]
    folder: Any
    command: List[str]
    data: List[str]
    plain: str
    said: str

    @property
    def argument(self):
        return next(iter(self.chosen))

    @property
    def has_base(self):
        return self.argument != "loss"

    @property
    def snapshot(self):
        return checkpoint.path(str(self.folder), "shapes", 4)

    def run(self, mode, *more):
        options = ["-d", "shapes", "-f", str(self.folder), *self.data, "-g", "-1"]
        return said_by("-m", mode, *options, *more)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Path of a snapshot without variants, and the options of its data."""
    root = tmp_path_factory.mktemp("plain")
    data = runs.build(root, jobs=1)
    return runs.draw_weights(root / "ckpts", data), data


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def trained(request, plain, tmp_path_factory):
    snapshot, data = plain
    folder = tmp_path_factory.mktemp("variant")
    ((argument, value),) = request.param.items()
    train = ["-m", "train", *runs.TINY, *data, "-f", str(folder), "-bs", "2", "-s", "2"]
    train += ["--cache-features", str(folder / "features")]
    command = [*train, models.option_name(argument), value]
    begin = ["-st", "2", "--init-from", snapshot, "--eval-steps", "2"]
    with quick():
        said = said_by(*command, *begin)
        said_by(*command, "-st", "4", "--resume")
    return Trained(request.param, folder, command, data, snapshot, said)


def test_training_starts_from_a_plain_snapshot(trained):
    drawn = {"refine": 20, "second_pass": 3, "loss": 0}[trained.argument]
    assert f"weights: loaded from {trained.plain}" in trained.said
    assert (f"; {drawn} variables that it lacks" in trained.said) == bool(drawn)
    ((argument, value),) = trained.chosen.items()
    named = f"model: CMPC_model {models.option_name(argument)} {value}, "
    assert trained.said.startswith(named)
    log = runs.read_log(trained.folder)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert LOSSES[argument] < set(log[0])
    (evaluated,) = runs.read_log(trained.folder, "eval.jsonl")
    assert ("base_overall_iou" in evaluated) == trained.has_base
    state = checkpoint.read_state(trained.snapshot)
    assert state["options"] == trained.chosen


def test_resuming_with_other_options_is_refused(trained, capsys):
    other = {"refine": "score", "second_pass": "score", "loss": "iou30"}
    command = trained.command[:-1]
    for line in (command[:-1], [*command, other[trained.argument]]):
        assert trainval_model.main([*line, "-st", "6", "--resume"]) == 2
        said = capsys.readouterr().err
        assert "was trained with --" in said and "resume with the same" in said
    assert checkpoint.steps(str(trained.folder), "shapes") == [2, 4]


def test_tested_and_reported(trained, tmp_path):
    which = "4" if trained.argument == "loss" else "best"
    output = str(tmp_path / "report.html")
    options = ["-t", "val", "-i", which, "-c", "--report", "--output", output]
    said = trained.run("test", *options).splitlines()
    path = checkpoint.path(str(trained.folder), "shapes", which) + ".val.json"
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    assert record["options"] == trained.chosen
    kinds = [WITHOUT_CRF, WITH_CRF] + [BASE] * trained.has_base
    assert list(record["results"]) == [TITLES[kind] for kind in kinds]
    lines = [line for line in said if line.startswith("overall base IoU = ")]
    if trained.has_base:
        base = record["results"][TITLES[BASE]]
        assert lines == [
            "overall base IoU = {overall_iou:.4f}; mean IoU = {mean_iou:.4f}".format(
                **base
            )
        ]
    else:
        assert not lines
    with open(output, encoding="utf-8") as file:
        assert (TITLES[BASE] in file.read()) == trained.has_base


@pytest.fixture(scope="module")
def predictor(trained):
    with quick(), Predictor(trained.snapshot) as predictor:
        predictor.set_image(IMAGE)
        yield predictor


def test_predictor_knows_the_variant_and_shows_both_scores(trained, predictor):
    levels = ("base",) * trained.has_base + ("c5", "c4", "c3")
    assert predictor.levels == levels and predictor.options == trained.chosen
    one = predictor.segment(SENTENCE)
    two = predictor.segment(["the box", SENTENCE])[1]
    found = predictor.find(np.stack([predictor.ids(SENTENCE)]))
    assert set(one.levels) == set(levels)
    np.testing.assert_allclose(two.probability, one.probability, atol=1e-5)
    if trained.has_base:
        base = expit(found.base_logits)
        np.testing.assert_allclose(found.levels["base"], base, rtol=1e-6)
        assert np.abs(base - found.probability).max() > 1e-4


def test_exported_model_gives_the_same(trained, predictor, tmp_path):
    output = str(tmp_path / "saved")
    trained.run("export", "--output", output)
    with open(output + "/model.json", encoding="utf-8") as file:
        about = json.load(file)
    assert (about["model"], about["options"]) == ("CMPC_model", trained.chosen)
    with tf.Graph().as_default(), tf.Session() as session:
        saved = tf.saved_model.load(session, ["serve"], output + "/1")
        signature = saved.signature_def["serving_default"]
        feed = {
            signature.inputs["image"].name: IMAGE,
            signature.inputs["sentences"].name: [SENTENCE],
        }
        found = session.run(signature.outputs["probability"].name, feed)
    wanted = predictor.segment(SENTENCE).probability
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_plain_run_starts_from_a_variant(trained, tmp_path):
    """Variables with two names are found under either."""
    command = ["-m", "train", *runs.TINY, *trained.data, "-f", str(tmp_path)]
    command += ["-st", "1", "-lr", "0.0000001", "--init-from", trained.snapshot]
    said = said_by(*command)
    assert f"weights: loaded from {trained.snapshot}" in said
    name = "text_objseg/rnn/conv_lstm_cell/kernel"
    theirs = name
    if trained.argument == "second_pass":
        theirs = "text_objseg/convlstmscope/rnn/conv_lstm_cell/kernel"
    path = checkpoint.path(str(tmp_path), "shapes", 1)
    found = checkpoint.read(path, [name])[name]
    wanted = checkpoint.read(trained.snapshot, [theirs])[theirs]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert models.of_snapshot(path)[1].get("second_pass") is None


def test_snapshot_without_its_state_is_refused_where_it_matters(trained, tmp_path):
    """Only the state says whether a second pass was of the score or the affinity."""
    path = checkpoint.path(str(tmp_path), "shapes", 4)
    for end in (checkpoint.INDEX, checkpoint.DATA):
        shutil.copy(trained.snapshot + end, path + end)
    assert models.to_start_from(path)[1] == models.to_start_from(trained.plain)[1]
    if trained.argument == "second_pass":
        with pytest.raises(
            UserError, match="does not tell --second-pass, score or aff"
        ):
            models.of_snapshot(path)
        wrong = {"refine": "score"}
    else:
        told = models.of_snapshot(path)[1].get(trained.argument)
        assert told == (None if trained.argument == "loss" else "edges")
        wrong = {"second_pass": "score"}
    with open(path + checkpoint.STATE, "w", encoding="utf-8") as file:
        json.dump({"options": wrong}, file)
    with pytest.raises(UserError, match="which its weights are not of"):
        models.of_snapshot(path)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_devices_that_share_a_step_give_the_same(options):
    """Two towers on one device: shares of a batch, and the image of each."""
    cases = [(1, 5), (2, 3)]
    found = []
    for towers in ((), [Tower("/cpu:0"), Tower("/cpu:0")]):
        with tf.Graph().as_default(), tf.Session() as session:
            with networks.without_training_step():
                model = LSTM_model(2, mode="train", towers=towers, **SMALL, **options)
            networks.load_recipe(session)
            fetches = {"up": model.up, "loss": model.cls_loss_all}
            found.append(session.run(fetches, networks.feed(model, cases, SMALL)))
    one, two = found
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    assert np.abs(two["up"] - one["up"]).max() <= 1e-5 * np.abs(one["up"]).max()


def test_a_model_without_the_option_refuses_it():
    args = trainval_model.parse(["-m", "demo", "--refine", "score"])
    with pytest.raises(UserError, match="other has no --refine"):
        chosen_options(mock.Mock(NAME="other", OPTIONS=()), args)
