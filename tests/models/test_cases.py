"""util.models.cases: models with their options, from the registry."""

import pytest

from util import models
from util.core.errors import UserError
from util.models.cases import Case, every, parse


def test_every_model_with_every_value_of_its_options():
    assert list(map(str, every(without=["refine"]))) == [
        "CMPC_model",
        "CMPC_model --loss iou30",
        "CMPC_model --loss iou50",
        "CMPC_model --loss iou70",
        "CMPC_model --loss region",
        "CMPC_model --second-pass score",
        "CMPC_model --second-pass affinity",
        "RRN_model",
        "STEP_model",
        "STEP_model --folds 1",
        "STEP_model --folds 2",
        "STEP_model --folds 3",
        "STEP_model --folds 4",
    ]
    assert Case("CMPC_model", {"refine": "edges"}) in every()


def test_a_model_of_your_own_appears_by_itself(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy_model", "toy_model")
    assert every()[-1] == Case("toy_model", {})


@pytest.mark.parametrize(
    "text, options",
    [
        ("CMPC_model", {}),
        ("CMPC_model:second_pass=affinity", {"second_pass": "affinity"}),
        ("CMPC_model:second-pass=score", {"second_pass": "score"}),
        ("STEP_model:folds=2", {"folds": 2}),
        ("STEP_model:folds=5", {}),  # as it is anyway
    ],
)
def test_what_is_written(text, options):
    assert parse(text) == Case(text.split(":")[0], options)


@pytest.mark.parametrize(
    "text, told",
    [
        ("LSCM_model", "there is no model 'LSCM_model'; choose one from CMPC_model"),
        ("CMPC_model:folds=2", "no option 'folds', only: loss, refine, second_pass"),
        ("RRN_model:loss=region", "RRN_model has no option 'loss', only: none"),
        ("CMPC_model:loss=iou40", "loss is one of iou30, iou50, iou70, region"),
        ("CMPC_model:loss", "loss is one of iou30"),
        ("STEP_model:folds=2.0", "folds is one of 1, 2, 3, 4, 5"),
        ("CMPC_model:loss=iou30:loss=iou50", "loss is there twice"),
        ("CMPC_model:loss=iou30:refine=image", "loss and refine cannot be combined"),
    ],
)
def test_what_there_is_not_is_refused_by_name(text, told):
    with pytest.raises(UserError, match=told):
        parse(text)
