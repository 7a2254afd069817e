"""gRefCOCO (-d gref): built, trained, tested and predicted with."""

import json

import numpy as np
import pytest
import recipe
import tiny_sets
from networks import small_backbone
from on_disk import check_same, read_all
from PIL import Image

import build_batches
import trainval_model
from util.data import im_processing
from util.evaluation import bootstrap
from util.training import start

SIZE = (40, 60)
BOX = [[10, 5, 30, 5, 30, 20, 10, 20]]
LEFT = tiny_sets.box(*SIZE, (5, 20, 10, 30))
RIGHT = tiny_sets.box(*SIZE, (30, 35, 40, 50))
SENTENCES = [  # annotations, text, mask
    ([1, 2], "the two boxes", LEFT | RIGHT),
    ([2], "box on the right", RIGHT),
    ([-1], "the third box", LEFT & RIGHT),
]


def ref(number, split, ann_ids, text):
    return {
        "ref_id": number,
        "ann_id": ann_ids,
        "category_id": ann_ids,
        "image_id": 9,
        "split": split,
        "no_target": ann_ids == [-1],
        "file_name": "COCO_train2014_000000000009.jpg",
        "sentences": [{"sent": text, "raw": text, "sent_id": number}],
    }


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return the options of a data folder with gRefCOCO in it, as people keep it."""
    monkeypatch.setattr(start, "CALIBRATION_IMAGES", 4)
    folder = tmp_path / "grefs"
    folder.mkdir()
    splits = ("train", "val", "testA", "testB")
    refs = [
        ref(number, split, ids, text)
        for split in splits
        for number, (ids, text, _) in enumerate(SENTENCES)
    ]
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    instances = {
        "images": [{"id": 9, "height": 40, "width": 60}],
        "annotations": [
            {"id": 1, "image_id": 9, "segmentation": BOX},
            {"id": 2, "image_id": 9, "segmentation": tiny_sets.compressed(RIGHT)},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    images = tmp_path / "images" / "train2014"
    images.mkdir(parents=True)
    image = Image.fromarray(recipe.image(1, *SIZE))
    image.save(str(images / "COCO_train2014_000000000009.jpg"))
    tiny_sets.write_vocabulary(tmp_path / "vocabulary_Gref.txt")
    return ["-d", "gref", "--data", str(tmp_path)]


def build(data, split, *more):
    assert build_batches.main([*data, "-t", split, "-j", "1", *more]) == 0


@pytest.mark.parametrize("split", ["train", "val", "testA", "testB"])
def test_masks_are_united_or_empty_in_both_layouts(data, tmp_path, split, capsys):
    found = []
    for layout in ([], ["--compact"]):
        batches = str(tmp_path / ("b" + "".join(layout)))
        build(data, split, "--size", "64", "--batches", batches, *layout)
        found.append(read_all(f"{batches}/gref/{split}_batch", f"gref_{split}"))
    check_same(*found)
    for sample, (_, text, mask) in zip(found[0], SENTENCES):
        if split == "train":
            mask = im_processing.fit_mask(mask, 64, 64)
        assert sample["sent_batch"] == [text]
        np.testing.assert_array_equal(sample["mask_batch"], mask)
    assert len(found[0]) == len(SENTENCES)
    assert "have no pixel" not in capsys.readouterr().err  # nothing is what they mean


def test_training_test_and_prediction(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bootstrap, "LEAST_IMAGES", 1)
    build(data, "train", "--size", "64", "--compact")
    build(data, "val")
    folder, cpu = ["-f", str(tmp_path / "ckpts")], ["-g", "-1"]
    sizes = "-st 2 --v-emb-dim 16 --mlp-dim 8 --backbone random --seed 1".split()
    with small_backbone():
        command = ["-m", "train", "-t", "train", *sizes, "--eval-steps", "1"]
        assert trainval_model.main([*data, *folder, *cpu, *command]) == 0
        capsys.readouterr()
        command = ["-m", "test", "-t", "val", "-c", "--per-sample", "--report"]
        command += ["--empty-below", "2401", "--crf-jobs", "1"]
        assert trainval_model.main([*data, *folder, *cpu, *command]) == 0
        out = capsys.readouterr().out
        image = tmp_path / "images" / "train2014" / "COCO_train2014_000000000009.jpg"
        command = ["-m", "predict", "--image", str(image), "--text", "the third box"]
        command += ["--output", str(tmp_path / "found")]
        assert trainval_model.main([*data, *folder, *cpu, *command]) == 0
    # No mask of this image has 2401 pixels: all of them say that nothing is meant.
    lines = [
        "precision@0.7 = 0.0000",
        "precision@0.8 = 0.0000",
        "precision@0.9 = 0.0000",
        "N-acc = 1.0000; T-acc = 0.0000",
        "gIoU = mean IoU = 0.3333; cIoU = overall IoU = 0.0000",
        "1 of 3 sentences have no target, and precision is that of the others; a mask "
        "of fewer than 2401 pixels says that nothing is meant (--empty-below 2401)",
    ]
    for title in ("without DenseCRF", "with DenseCRF"):
        assert "\n".join([f"Segmentation evaluation ({title}):", *lines]) in out
    record = json.loads(next((tmp_path / "ckpts").glob("*.val.json")).read_text())
    assert record["empty_below"] == 2401
    # All sentences are of one image, and so are all draws.
    assert (
        "1 images, 1000 draws, seed 0):\nwithout DenseCRF: oIoU 0.0000 to 0.0000; "
        in out
    )
    assert "\nwith DenseCRF: oIoU 0.0000 to 0.0000; mIoU 0.3333 to 0.3333\n" in out
    low, high = record["intervals"]["with DenseCRF"]["mean_iou"]
    assert low == high == record["results"]["with DenseCRF"]["mean_iou"]
    assert record["intervals"]["images"] == 1
    assert record["results"]["with DenseCRF"]["no_target_accuracy"] == 1
    assert list((tmp_path / "ckpts").glob("*.val.html"))
    assert (tmp_path / "found" / "predictions.jsonl").exists()
