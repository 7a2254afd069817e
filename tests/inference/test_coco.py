"""util.inference.coco: where the ids of images come from."""

import json
import re

import pytest

from util.core.errors import UserError
from util.inference import coco


def write(path, *images):
    entries = [dict(zip(("id", "file_name"), image)) for image in images]
    path.write_text(json.dumps({"images": entries}))
    return str(path)


def test_names_that_are_cocos_say_ids():
    paths = ["x/COCO_train2014_000000000009.jpg", "y/000000000012.png"]
    found = coco.image_ids([*paths, paths[0]])
    assert found.of == dict(zip(paths, (9, 12)))
    assert found.source == "from the images' names, which are COCO's"


@pytest.mark.parametrize(
    "paths",
    [
        ["scene3.png", "scene1.png"],
        ["7.png", "8.png"],
        ["COCO_train2014_000000000009.jpg", "photo.jpg"],
        ["a/000000000009.jpg", "b/000000000009.jpg"],
        ["IMG_000000000009.jpg", "000000000012.png"],
        ["0000000000009.jpg", "000000000012.png"],
    ],
)
def test_other_names_do_not(paths):
    found = coco.image_ids([*paths, paths[0]])
    assert found.of == {paths[0]: 1, paths[1]: 2}
    assert found.source.startswith("invented, ")


def test_ids_are_those_of_the_ground_truth(tmp_path):
    truth = write(
        tmp_path / "truth.json", (8, "b.png"), (5, "val/a.png"), (2, "train/a.png")
    )
    paths = ["in/b.png", "in/train/a.png", "in/val/a.png"]
    found = coco.image_ids(paths, truth)
    assert found.of == dict(zip(paths, (8, 2, 5)))
    assert found.source == f"those of {truth}"


@pytest.mark.parametrize(
    "images, told",
    [
        ([(1, "a.png")], "lists no image b.png (in/b.png)"),
        ([(1, "a.png"), (1, "b.png")], "in/a.png and in/b.png are both image 1 of"),
        ([(1, "a.png"), (2, "b.png"), (3, "b.png")], "has 2 ids for in/b.png"),
        ([(1, "a.png"), ("2", "b.png")], "the id '2' of b.png is no whole number"),
        ([(1,)], "is not a COCO file with id and file_name of images: KeyError"),
    ],
)
def test_ground_truth_that_does_not_tell_is_refused(tmp_path, images, told):
    truth = write(tmp_path / "truth.json", *images)
    with pytest.raises(UserError, match=re.escape(told)):
        coco.image_ids(["in/a.png", "in/b.png"], truth)
