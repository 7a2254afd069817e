"""util.training.comparison: runs that are resumed and refused, and the table."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from networks import small_backbone

from util import compare_models, models
from util.data import datasets, shapes
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF
from util.evaluation.evaluate import Result
from util.graph import checkpoint
from util.models import cases
from util.training import comparison, demo

SMALL = dict(input_size=64, v_emb_dim=16, mlp_dim=8)


# --- The command, with the toy model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("shapes"))
    shapes.draw(folder, num_scenes={"train": 3, "val": 1, "test": 3})
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    """Know the toy model; scenes, networks and the backbone's training are small."""
    tiny = dataclasses.replace(datasets.DATASETS["shapes"], **SMALL)
    patch = pytest.MonkeyPatch()
    with small_backbone(), patch.context() as patched:
        patched.setitem(models.MODELS, "toy_model", "toy_model")
        patched.setitem(datasets.DATASETS, "shapes", tiny)
        patched.setattr(demo, "BACKBONE_STEPS", 1)
        patched.setattr(demo, "cores", lambda: 1)
        patched.setattr(comparison, "cores", lambda: 1)
        yield


def command(data, folder, *more):
    options = "--networks toy_model --steps 2".split() + ["--data", data]
    return compare_models.main(["-f", str(folder), *options, *more])


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """A folder with one complete run, of seed 0."""
    folder = tmp_path_factory.mktemp("compare")
    assert command(data, folder, "--seeds", "0") == 0
    return folder


def files_of(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_what_training_leaves_and_its_record(compared):
    run = compared / "toy_model-seed-0"
    assert (run / "shapes_iter_2.tfmodel.index").is_file()
    record = json.loads((run / "scores.json").read_text())
    assert json.loads((compared / "compare.json").read_text()) == [record]
    assert (record["network"], record["options"], record["seed"]) == (
        "toy_model",
        {},
        0,
    )
    backbone = str(compared / "backbone-seed-0.ckpt")
    assert record["backbone"] == checkpoint.fingerprint(backbone)
    assert list(record["scores"]) == [TITLES[WITHOUT_CRF], TITLES[WITH_CRF]]
    counts = [record[key][TITLES[WITH_CRF]]["count"] for key in ("scores", "relations")]
    assert counts == [3 * 8, 8] and record["rounds"] == []
    (line,) = (run / "log.jsonl").read_text().splitlines()
    assert record["seconds_per_step"] == 16 / json.loads(line)["sentences_per_s"]


@pytest.fixture
def quick(compared, monkeypatch):
    """Train and test nothing; return the arguments of each training."""
    run, calls = compared / "toy_model-seed-0", []
    record = json.loads((run / "scores.json").read_text())

    def train_small(model_class, dataset, folder, steps, seed, options, **start):
        calls.append(dict(start, steps=steps, seed=seed))
        shutil.copy(str(run / "log.jsonl"), folder)
        return "snapshot"

    keys = "scores", "relations", "rounds", "pair_accuracy", "blind_iou"
    found = {key: record[key] for key in keys}
    monkeypatch.setattr(demo, "train_small", train_small)
    monkeypatch.setattr(comparison, "test", lambda snapshot, samples: found)
    return calls


def test_a_complete_run_is_not_done_again_and_a_killed_one_is(
    compared, data, tmp_path, capsys, quick
):
    folder = tmp_path / "compare"
    shutil.copytree(str(compared), str(folder))
    record = folder / "toy_model-seed-0" / "scores.json"
    before = files_of(folder)
    assert command(data, folder, "--seeds", "0", "0") == 0
    assert files_of(folder) == before and not quick
    printed = capsys.readouterr().out
    assert "1 of 1: toy_model, seed 0: complete\n" in printed
    assert "| `-n toy_model` | 1 | " in printed
    record.unlink()  # killed before the end
    assert command(data, folder, "--seeds", "0") == 0
    assert "1 of 1: toy_model, seed 0: training\n" in capsys.readouterr().out
    assert len(quick) == 1 and files_of(folder) == before


def test_a_run_starts_from_a_snapshot_and_needs_no_backbone(
    compared, data, tmp_path, capsys
):
    snapshot = compared / "toy_model-seed-0" / "shapes_iter_2.tfmodel"
    more = ["--steps", "1", "--seeds", "7", "--init-from", str(snapshot)]
    assert command(data, tmp_path, *more) == 0
    assert f"weights: loaded from {snapshot}" in capsys.readouterr().out
    assert not list(tmp_path.glob("backbone*"))
    record = json.loads((tmp_path / "toy_model-seed-7" / "scores.json").read_text())
    settings = record["settings"]
    assert settings["init_from"] == checkpoint.fingerprint(str(snapshot))
    assert (settings["steps"], settings["threads"]) == (1, 1)
    assert command(data, tmp_path, *more, "--networks", "RRN_model") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: RRN_model cannot start from ")
    assert "which is of toy_model" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "more, told",
    [
        (
            ["--steps", "3"],
            "scores.json was made with other steps: name another folder",
        ),
        (["--threads", "2"], "scores.json was made with other threads: name another"),
        (["--init-from", "{}"], "scores.json was made with other init_from: name"),
        (["--networks", "toy_model:loss=region"], "toy_model has no option 'loss'"),
        (["--networks", "x"], "there is no model 'x'"),
        (["--init-from", "none"], "cannot read the checkpoint none"),
    ],
)
def test_other_settings_are_refused_in_a_line(compared, data, capsys, more, told):
    before = files_of(compared)
    snapshot = compared / "toy_model-seed-0" / "shapes_iter_2.tfmodel"
    more = [one.format(snapshot) for one in more]
    assert command(data, compared, "--seeds", "0", "1", *more) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("error: ") and error.count("\n") == 1
    assert files_of(compared) == before


def test_other_scenes_and_another_backbone_are_refused(
    compared, data, tmp_path, capsys
):
    other = str(tmp_path / "data")
    shapes.draw(other, seed=1, num_scenes={"train": 3, "val": 1, "test": 3})
    assert command(other, compared) == 2
    assert "scores.json was made with other data: name" in capsys.readouterr().err
    folder = tmp_path / "compare"
    shutil.copytree(str(compared), str(folder))
    with (folder / "backbone-seed-0.ckpt.index").open("ab") as file:
        file.write(b"other")
    assert command(data, folder) == 2
    assert "scores.json was made with other backbone" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"seed": 0}'])
def test_a_damaged_record_is_refused(compared, data, tmp_path, capsys, text):
    folder = tmp_path / "compare"
    (folder / "toy_model-seed-0").mkdir(parents=True)
    (folder / "toy_model-seed-0" / "scores.json").write_text(text)
    assert command(data, folder) == 2
    told = capsys.readouterr().err
    assert "scores.json is " in told and told.count("\n") == 1


def test_a_backbone_that_is_there_is_used(compared, data, tmp_path, monkeypatch, quick):
    for end in (".index", ".data-00000-of-00001"):
        name = str(compared / "backbone-seed-0.ckpt") + end
        shutil.copy(name, str(tmp_path / ("backbone-seed-5.ckpt" + end)))
    monkeypatch.setattr(demo, "train_backbone", None)
    assert command(data, tmp_path, "--seeds", "5") == 0
    backbone = str(tmp_path / "backbone-seed-5.ckpt")
    how = {"init_from": None, "threads": 1, "steps": 2, "seed": 5}
    assert quick == [dict(how, backbone=backbone)]
    record = json.loads((tmp_path / "toy_model-seed-5" / "scores.json").read_text())
    assert record["backbone"] == checkpoint.fingerprint(backbone)


def test_a_signal_while_training_leaves_no_record(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "train_backbone", lambda *args: None)
    monkeypatch.setattr(checkpoint, "require_whole", lambda path: None)
    monkeypatch.setattr(demo, "train", lambda *args: None)
    assert command(data, tmp_path, "--seeds", "0") == 1
    assert "a signal came before step 2" in capsys.readouterr().err
    assert not list(tmp_path.rglob("scores.json"))


# --- Scores and tables of known values


def mask(*columns):
    found = np.zeros((2, 10), bool)
    found[:, list(columns)] = True
    return found


def result(sentence, found, refined, **rounds):
    sample = {
        "im_name_batch": ["a"],
        "mask_batch": mask(0, 1, 2, 3),
        "sent_batch": [sentence],
        "text_batch": np.ones(20, np.int32),
    }
    masks = {WITHOUT_CRF: found, WITH_CRF: refined, **rounds}
    return Result(0, sample, masks)


def test_scores_of_all_of_relations_and_of_rounds():
    whole = mask(0, 1, 2, 3)
    results = [
        result("the square", mask(0, 1), whole, round_1=mask(0), round_2=mask(9)),
        result("the left square", whole, whole, round_1=mask(), round_2=whole),
        result("the square below the cross", mask(3, 4), mask(), round_1=mask(3),
               round_2=mask(2, 3)),
    ]  # fmt: skip
    found = comparison.scores_of(results)
    without, refined = found["scores"].values()
    assert without["overall_iou"] == (2 + 4 + 1) / (4 + 4 + 5)
    assert without["mean_iou"] == pytest.approx((0.5 + 1 + 0.2) / 3)
    assert without["precision@0.5"] == refined["precision@0.9"] == 2 / 3
    assert [one["overall_iou"] for one in found["relations"].values()] == [0.2, 0]
    assert found["rounds"] == [2 / 12, 6 / 13, 7 / 13]
    plain = [one._replace(masks={WITHOUT_CRF: whole}) for one in results]
    assert comparison.scores_of(plain)["rounds"] == []


def scores(overall, mean, half, most, count=480):
    found = {"overall_iou": overall, "mean_iou": mean, "count": count}
    return dict(found, **{"precision@0.5": half, "precision@0.9": most})


def record(network, seed, overall, rounds=(), step=0.1):
    titles = TITLES[WITHOUT_CRF], TITLES[WITH_CRF]
    both = [scores(overall, 0.5, 0.6, 0.1), scores(overall + 0.1, 0.55, 0.7, 0.2)]
    relations = [scores(0.3, 0.3, 0.2, 0, 160), scores(0.2, 0.3, 0.2, 0, 160)]
    return {
        "network": network,
        "seed": seed,
        "settings": {"steps": 2000},
        "scores": dict(zip(titles, both)),
        "relations": dict(zip(titles, relations)),
        "rounds": list(rounds),
        "pair_accuracy": 0.8,
        "blind_iou": 0.11,
        "seconds_per_step": step,
    }


TABLES = """\
2000 steps of 16 sentences; 480 test sentences, 160 of them about relations. Without / \
with DenseCRF; pairs and blind without. Mean over the seeds (least..greatest):

| network | seeds | oIoU | mIoU | P@0.5 | P@0.9 | oIoU of relations | pairs | blind | \
seconds a step |
|---|---|---|---|---|---|---|---|---|---|
| `-n CMPC_model --loss region` | 2 | 0.580 (0.560..0.600) / 0.680 (0.660..0.700) | \
0.500 (0.500..0.500) / 0.550 (0.550..0.550) | 0.600 (0.600..0.600) / 0.700 \
(0.700..0.700) | 0.100 (0.100..0.100) / 0.200 (0.200..0.200) | 0.300 (0.300..0.300) / \
0.200 (0.200..0.200) | 0.800 (0.800..0.800) | 0.110 (0.110..0.110) | 0.150 \
(0.100..0.200) |
| `-n STEP_model` | 1 | 0.500 / 0.600 | 0.500 / 0.550 | 0.600 / 0.700 | 0.100 / 0.200 \
| 0.300 / 0.200 | 0.800 | 0.110 | 0.100 |
| `-n STEP_model --folds 2` | 1 | 0.400 / 0.500 | 0.500 / 0.550 | 0.600 / 0.700 | \
0.100 / 0.200 | 0.300 / 0.200 | 0.800 | 0.110 | 0.100 |

oIoU of each round, without DenseCRF:

| network | seeds | round 1 | round 2 | round 3 |
|---|---|---|---|---|
| `-n STEP_model` | 1 | 0.300 | 0.400 | 0.500 |
| `-n STEP_model --folds 2` | 1 | 0.200 | 0.400 |  |"""


def test_tables_of_known_values():
    records = [
        record("CMPC_model --loss region", 0, 0.56),
        record("CMPC_model --loss region", 1, 0.60, step=0.2),
        record("STEP_model", 0, 0.5, [0.3, 0.4, 0.5]),
        record("STEP_model --folds 2", 0, 0.4, [0.2, 0.4]),
    ]
    assert comparison.report(records) == TABLES
    assert comparison.report(records[:2]) == TABLES.split("\n| `-n STEP")[0]
    records[1]["revision"] = "c36aac1"
    told = "\n\nRuns of several revisions of this code: c36aac1, unknown"
    assert comparison.report(records) == TABLES + told


def test_by_default_every_model_runs_but_not_what_is_slow(monkeypatch, data, tmp_path):
    done = []

    def complete(plan, case, seed):
        done.append((str(case), seed))

    monkeypatch.setattr(comparison, "complete", complete)
    monkeypatch.setattr(comparison, "report", lambda records: "")
    options = ["-f", str(tmp_path / "new"), "--data", data]
    assert compare_models.main(options) == 0
    names = [str(case) for case in cases.every(without=["refine"])]
    assert names[-1] == "toy_model"
    assert done == [(name, seed) for seed in (0, 1, 2) for name in names]
