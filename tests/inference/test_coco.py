"""util.inference.coco: the ids of images, and the file for label tools."""

import json
import re

import numpy as np
import pytest
import tiny_sets
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

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
    assert found.names == {8: "b.png", 2: "train/a.png", 5: "val/a.png"}
    assert found.place == f"named as in {truth}"


def test_names_begin_at_the_folder_of_all_images(tmp_path):
    paths = ["in/b.png", str(tmp_path / "in" / "more" / "\u00e4.png")]
    paths = [str(tmp_path / path) for path in paths]
    found = coco.image_ids(paths)
    assert found.names == {1: "b.png", 2: "more/\u00e4.png"}
    assert found.place == f"below {tmp_path / 'in'}"
    assert coco.image_ids(paths[1:]).names == {1: "\u00e4.png"}


def test_paths_of_one_image_are_one_image(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    paths = ["far/a.png", "./far/a.png", str(tmp_path / "far" / "a.png")]
    paths += ["link/../a.png", "link/b.png"]
    ids = [1, 1, 1, 1, 2]
    found = coco.image_ids(paths)
    assert [found.of[path] for path in paths] == ids
    assert found.names == {1: "far/a.png", 2: "link/b.png"}
    truth = write(tmp_path / "truth.json", (1, "a.png"), (2, "b.png"))
    assert [coco.image_ids(paths, truth).of[path] for path in paths] == ids


def test_names_that_no_file_can_have_are_no_crash():
    paths = ["x\0/../a.png", "\ud800/../b.png", "..", "c.png"]
    assert sorted(coco.image_ids(paths).of.values()) == [1, 2, 3, 4]


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


def result(number, mask, sentence, score=0.75):
    return {
        "image_id": number,
        "category_id": 1,
        "segmentation": tiny_sets.compressed(mask),
        "bbox": [float(side) for side in coco_mask.toBbox(tiny_sets.compressed(mask))],
        "score": score,
        "file_name": "not this",
        "sentence": sentence,
    }


def test_pycocotools_loads_the_data_set_with_the_same_masks(tmp_path, capsys):
    ring = tiny_sets.box(40, 60, (0, 40, 30, 60))  # on three borders, with a hole
    ring[10:20, 40:50] = False
    masks = [ring, tiny_sets.MASKS[101], tiny_sets.MASKS[103] ^ True]
    nothing = np.zeros((40, 60), bool)
    results = [
        result(9, masks[0], "the ring"),
        result(9, nothing, "nothing"),
        result(9, masks[1], "\u043a\u0440\u0430\u0441\u043d\u044b\u0439"),
        result(3, masks[2], "the ring"),
        result(5, nothing, "nothing"),
    ]
    ids = coco.Ids({}, {9: "a.png", 3: "\u00e4/b.png", 5: "c.png"}, "", "")
    path = tmp_path / coco.DATA_SET
    path.write_text(json.dumps(coco.data_set(results, ids)))
    found = COCO(str(path))
    sizes = [(one["id"], one["width"], one["height"]) for one in found.loadImgs([9, 3])]
    assert sizes == [(9, 60, 40), (3, 40, 60)]
    names = [one["file_name"] for one in found.dataset["images"]]
    assert names == ["a.png", "\u00e4/b.png", "c.png"]  # also where nothing was found
    annotations = found.loadAnns(found.getAnnIds())
    assert [one["id"] for one in annotations] == [1, 2, 3]
    for one, mask, wanted in zip(annotations, masks, (results[0], *results[2:4])):
        np.testing.assert_array_equal(found.annToMask(one), mask)
        assert one["area"] == mask.sum() and one["iscrowd"] == 1
        assert [wanted["sentence"]] == one["sentences"]
        assert one["attributes"] == {"sentence": wanted["sentence"]}
        for key in ("image_id", "bbox", "score"):
            assert one[key] == wanted[key]
        assert [one["name"] for one in found.loadCats(one["category_id"])] == ["object"]
