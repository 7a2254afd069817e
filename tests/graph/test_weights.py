"""deeplab_resnet.weights: the backbone's variables in a file, by name."""

import pytest
from variables import load, save

from deeplab_resnet import weights
from util.core.errors import UserError

BACKBONE = {
    "conv1/weights": [2],
    "bn_conv1/gamma": [3],
    "res5c_branch2c/weights": [1, 1],
    "bn5c_branch2c/moving_mean": [2],
}


def test_backbone_is_loaded_by_name_and_the_rest_left_alone(tmp_path):
    stored = dict(BACKBONE, fc1_voc12_c0=[5], **{"text_objseg/a": [2]})
    path = save(tmp_path, stored)
    said, values = load(weights.load, path, dict(BACKBONE, **{"text_objseg/a": [2]}))
    assert said == "backbone: 4 of 4 variables loaded from " + path
    for number, name in enumerate(BACKBONE, 1):
        assert (values[name] == number).all(), name
    assert (values["text_objseg/a"] == 0).all()


def test_backbone_says_what_is_missing(tmp_path):
    path = save(tmp_path, {"conv1/weights": [2], "bn_conv1/gamma": [3]})
    said, values = load(weights.load, path, BACKBONE)
    assert said == (
        f"backbone: 2 of 4 variables loaded from {path}; missing: "
        "res5c_branch2c/weights, "
        "bn5c_branch2c/moving_mean"
    )
    assert (values["bn_conv1/gamma"] == 2).all()
    assert (values["res5c_branch2c/weights"] == 0).all()


def test_backbone_of_other_shapes_is_refused(tmp_path):
    path = save(tmp_path, dict(BACKBONE, **{"bn_conv1/gamma": [4]}))
    with pytest.raises(UserError, match=r"bn_conv1/gamma is \[4\], not \[3\]"):
        load(weights.load, path, BACKBONE)


def test_file_without_any_of_the_backbone_is_refused(tmp_path):
    path = save(tmp_path, {"text_objseg/a": [2, 3]})
    with pytest.raises(UserError, match="has no variable of the backbone"):
        load(weights.load, path, BACKBONE)


def test_file_is_checked_by_reading_all_of_the_backbone(tmp_path):
    path = save(tmp_path, dict(BACKBONE, **{"text_objseg/a": [2]}))
    assert weights.check(path) == 4
    with open(path + ".data-00000-of-00001", "r+b") as file:
        file.truncate(8)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        weights.check(path)
