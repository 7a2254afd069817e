"""util.models.references: what is published, and the tables of ckpts/README.md."""

import re
from pathlib import Path

import pytest

from util import models
from util.bench import comparison
from util.data import datasets
from util.models import references
from util.models.references import FIGURES, RUNS, runs_of

README = Path(__file__).resolve().parents[2] / "ckpts" / "README.md"


def tables(first):
    """Return the rows, as lists of cells, of the README's tables with this corner."""
    text = README.read_text(encoding="utf-8")
    pattern = rf"((?:^\| {first} \|)(?:.*\n)(?:^\|.*\n)+)"
    found = re.findall(pattern, text, re.MULTILINE)
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines()
        ]
        for table in found
    ]


def shown(pair):
    """Return (without, with) as the README has it."""
    return " / ".join("–" if value is None else f"{value:.2f}" for value in pair)


@pytest.mark.parametrize("number, figure", [(0, "overall_iou"), (1, "mean_iou")])
def test_readme_has_every_run_and_no_other_figure(number, figure):
    (_, *columns), _, *rows = tables("run")[number]
    wheres = [tuple(column.replace("`", "").split()) for column in columns]
    wanted = []
    for run in RUNS:
        known = {w: x[figure] for w, x in run.scores.items() if figure in x}
        assert set(known) <= set(wheres)
        name = f"`{run.name}`" if run.name.startswith("--") else run.name
        cells = [shown(known[where]) if where in known else "" for where in wheres]
        wanted += [[name, *cells]] * bool(known)
    assert rows == wanted


def test_readme_has_the_published_score_of_every_model_to_choose():
    (table,) = tables("model")
    head, _, *rows = table
    printed = comparison.table([]).splitlines()[0]
    assert head == [cell.strip() for cell in printed.strip("|").split("|")]
    scores = [(name, score) for name, *_, score in rows]
    assert scores == [(f"`-n {case}`", case.published) for case in comparison.CASES]
    assert ("`-n CMPC_model --refine score`", "62.55 / 62.67") in scores
    assert ("`-n STEP_model --folds 3`", "not published") in scores


def test_figures_that_were_published():
    attempt = [run for run in RUNS if run.source == references.ATTEMPT]
    assert len(attempt) == 12 and len({run.name for run in RUNS}) == len(RUNS)
    (refined,) = runs_of("CMPC_model", {"refine": "score"}, "unc+", "testA")
    assert refined.step == 800000
    assert refined.scores["unc+", "testA"] == {
        "overall_iou": (54.47, 54.61),
        "mean_iou": (56.21, 56.27),
        "precision@0.5": (66.7, 66.3),
        "precision@0.7": (52.4, 53.0),
        "precision@0.9": (8.9, 11.1),
    }
    (rrn,) = runs_of("RRN_model", {}, "Gref", "val")
    assert rrn.scores["Gref", "val"] == {"overall_iou": (None, 36.45)}
    assert "second-hand" in rrn.source and not runs_of(
        "RRN_model", {}, "referit", "test"
    )


def test_what_figures_are_of_exists():
    for run in RUNS:
        for (dataset, split), scores in run.scores.items():
            assert split in datasets.DATASETS[dataset].splits
            assert tuple(scores) == FIGURES[: len(scores)]
            for without, refined in scores.values():
                assert all(x is None or 0 < x < 100 for x in (without, refined))
        assert not run.options or run.model
    assert {"CMPC_model", "RRN_model"} <= {run.model for run in RUNS}
    assert set(references.REFERENCES) <= set(models.MODELS)
