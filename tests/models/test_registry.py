"""util.models: the registry, and what a model says of itself."""

import inspect
import subprocess
import sys

import pytest
from variables import load, save

from CMPC_model import LSTM_model
from util import models
from util.core.errors import UserError
from util.models import base

NETWORK = {
    "text_objseg/words_parse_1/DW": [1, 1, 32, 500],
    "text_objseg/Variable": [50, 300],
    "text_objseg/c5_lateral/DW": [1, 1, 2048, 32],
    "text_objseg/rnn/conv_lstm_cell/W_ci": [8, 12, 16],
}
SIZES = dict(
    vocab_size=50,
    glove_dim=300,
    v_emb_dim=32,
    rnn_size=32,
    mlp_dim=16,
    vf_h=8,
    vf_w=12,
    H=64,
    W=96,
)


def test_every_model_is_what_its_name_says():
    for name in models.MODELS:
        model_class = models.load(name)
        assert model_class.NAME == name and issubclass(model_class, base.Model)
        assert next(iter(model_class.LOSS_WEIGHTS)) == "pred"
        names = model_class.SIGNATURE, model_class.WORD_TABLE, model_class.STEP_COUNTER
        assert all(name.startswith(base.SCOPE + "/") for name in names)
    assert models.load("CMPC_model") is LSTM_model


def test_signatures_tell_the_models_apart():
    signatures = [models.load(name).SIGNATURE for name in models.MODELS]
    assert len(set(signatures)) == len(models.MODELS)


def test_a_name_that_no_model_has():
    with pytest.raises(
        UserError, match="no model 'x'; choose one from CMPC_model, RRN_"
    ):
        models.load("x")


def test_names_come_without_tensorflow():
    code = (
        "import sys; from util.models import MODELS; print('tensorflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code]).strip() == b"False"


def test_a_snapshot_tells_its_model_and_sizes(tmp_path):
    path = save(tmp_path, NETWORK)
    assert models.of_snapshot(path) == (LSTM_model, SIZES)
    assert models.of_snapshot(path, "CMPC_model") == (LSTM_model, SIZES)


def test_a_snapshot_tells_how_small_its_backbone_is(tmp_path):
    units = ["2a", "3a", "3b1", "4a", "5a"]
    kernels = {f"res{unit}_branch2a/weights": [1, 1, 64, 16] for unit in units}
    kernels["conv1/weights"] = [7, 7, 3, 16]
    path = save(tmp_path, dict(NETWORK, **kernels))
    assert models.of_snapshot(path)[1] == dict(SIZES, units=[1, 2, 1, 1], width=16)


def test_a_snapshot_of_another_model_is_refused_by_name(tmp_path):
    path = save(tmp_path, NETWORK)
    told = "_7.tfmodel is a checkpoint of CMPC_model, not of RRN_model: choose -n CMPC"
    with pytest.raises(UserError, match=told):
        models.of_snapshot(path, "RRN_model")


def test_a_file_of_no_model_says_what_it_has(tmp_path):
    path = save(tmp_path, {"b": [], "a": [2]})
    told = "_7.tfmodel is not a checkpoint of CMPC.* or .*: it has 2 variables: a, b$"
    with pytest.raises(UserError, match=told):
        models.of_snapshot(path)
    with pytest.raises(UserError, match="it has 4 variables: a, b, c, ...$"):
        models.of_checkpoint(dict.fromkeys("dbca", [1]))
    with pytest.raises(UserError, match="it has 0 variables$"):
        models.of_checkpoint({})


@pytest.mark.parametrize("name", sorted(NETWORK)[:3])
@pytest.mark.parametrize("shape, told", [(None, "missing"), ([2], r"\[2\]")])
def test_a_file_that_tells_no_sizes(tmp_path, name, shape, told):
    stored = {key: value for key, value in NETWORK.items() if key != name}
    if shape:
        stored[name] = shape
    with pytest.raises(UserError, match=f"checkpoint of CMPC_model: {name} is {told}"):
        models.of_snapshot(save(tmp_path, stored))


def test_a_second_pass_and_a_refinement_are_refused_by_name(tmp_path):
    """What the public attempt's last network is, of which each part would load."""
    stored = dict(NETWORK, **{"text_objseg/pred_adj/DW": [1, 1, 2, 1]})
    stored["text_objseg/b1/DW"] = [3, 3, 1, 64]
    told = "has a second pass and a refinement, which cannot be combined"
    with pytest.raises(UserError, match=told):
        models.of_snapshot(save(tmp_path, stored))


def test_weights_that_a_network_has_no_place_for_are_refused(tmp_path):
    stored = ["text_objseg/a", "text_objseg/text_objseg/a/Adam", "fc1_voc12/weights"]
    made = {"text_objseg/a": [2]}
    path = save(tmp_path, dict.fromkeys([*stored, LSTM_model.STEP_COUNTER], [2]))
    _, values = load(LSTM_model.load, path, made)
    assert values["text_objseg/a"].tolist() == [1, 1]
    path = save(tmp_path, dict.fromkeys([*stored, "text_objseg/b"], [2]))
    with pytest.raises(UserError, match="another network: this one has no text_.*/b$"):
        load(LSTM_model.load, path, made)


def test_weights_and_what_is_of_training():
    names = ["Variable", "Variable_1", "text_objseg/score/DW/Adam", "beta1_power"]
    kept = [LSTM_model.is_weight("text_objseg/" + name) for name in names]
    assert kept == [True, False, False, False]
    assert LSTM_model.is_weight("conv1/weights")
    assert not LSTM_model.is_weight("beta2_power")


def test_arguments_are_those_of_the_published_class():
    arguments = inspect.signature(LSTM_model).parameters
    assert " ".join(arguments).startswith(
        "batch_size num_steps vf_h vf_w H W vf_dim vocab_size v_emb_dim mlp_dim "
        "start_lr lr_decay_step rnn_size keep_prob_rnn keep_prob_emb optimizer "
        "weight_decay mode conv5 glove_dim"
    )
    assert (arguments["start_lr"].default, arguments["mode"].default) == (
        2.5e-4,
        "eval",
    )


def test_options_are_arguments_of_the_models_that_have_them():
    assert not set(models.OPTIONS) & set(base.Arguments._fields)
    for model_class in map(models.load, models.MODELS):
        taken = set(models.OPTIONS) & set(model_class.Arguments._fields)
        assert taken == set(model_class.OPTIONS)


def test_predictor_is_found_through_the_paper():
    import CMPC_model
    from util.inference import predictor

    assert CMPC_model.Predictor is predictor.Predictor
    with pytest.raises(AttributeError, match="CMPC_model.* no attribute 'Predicter'"):
        CMPC_model.Predicter  # noqa: B018
