"""Tiny data sets in the formats of RefCOCO and ReferIt, and what their masks are.

Also pickles as Python 2 wrote them, which Python 3 cannot make.
"""

import json
import pickle

import numpy as np
import recipe
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

SIZES = {1: (40, 60), 2: (60, 40), 3: (48, 48)}  # image -> height, width
WORDS = ["<pad>", "<go>", "<eos>", "<unk>", "left", "box", "the"]


def box(height, width, *boxes):
    """Return a bool mask; a box is (top, bottom, left, right), ends excluded."""
    mask = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


MASKS = {  # annotation -> mask
    101: box(40, 60, (5, 20, 10, 30), (30, 35, 40, 50)),
    102: box(40, 60, (0, 40, 50, 60)),
    103: box(60, 40, (10, 50, 0, 20)),
    104: box(48, 48, (1, 47, 20, 21)),
}
POLYGONS = {
    101: [[10, 5, 30, 5, 30, 20, 10, 20], [40, 30, 50, 30, 50, 35, 40, 35]],
    104: [[20, 1, 21, 1, 21, 47, 20, 47]],
}
REFS = [  # annotation, image, split, sentences
    (101, 1, "train", ["Left box.", "the two boxes"]),
    (102, 1, "train", ["box on the right"]),
    (103, 2, "val", ["tall one", "left"]),
    (104, 3, "train", ["the thin line"]),
]


def run_lengths(mask):
    """Return COCO's uncompressed run-length form of a mask."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [True]])
    edges = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts[counts.cumsum() > 0].tolist()}


def compressed(mask):
    """Return COCO's compressed run-length form of a mask."""
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}


def refs():
    """Return the refs as a refs(x).p holds them."""
    return [
        {
            "sent_ids": list(range(len(sentences))),
            "file_name": f"COCO_train2014_000000000000_{annotation}.jpg",
            "ann_id": annotation,
            "ref_id": annotation - 100,
            "image_id": image,
            "split": split,
            "category_id": 1,
            "sentences": [
                {"tokens": s.split(), "raw": s, "sent_id": n, "sent": s}
                for n, s in enumerate(sentences)
            ],
        }
        for annotation, image, split, sentences in REFS
    ]


def instances():
    """Return the content of instances.json: polygons and both kinds of runs."""
    segmentations = dict(POLYGONS)
    segmentations[102] = run_lengths(MASKS[102])
    segmentations[103] = compressed(MASKS[103])
    return {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in SIZES.items()],
        "annotations": [
            {
                "id": annotation,
                "image_id": image,
                "iscrowd": 0,
                "segmentation": segmentations[annotation],
            }
            for annotation, image, _, _ in REFS
        ],
    }


def write_vocabulary(path):
    """Write the few words of the tiny sets."""
    path.write_text("".join(word + "\n" for word in WORDS))


def write_unc(root):
    """Write the data set `unc` below `root`, a pathlib.Path."""
    folder = root / "refer" / "refcoco"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs(), protocol=2))
    (folder / "instances.json").write_text(json.dumps(instances()))
    images = root / "coco" / "images" / "train2014"
    images.mkdir(parents=True)
    for number, (height, width) in SIZES.items():
        image = Image.fromarray(recipe.image(number, height, width))
        image.save(str(images / f"COCO_train2014_{number:012d}.jpg"))
    write_vocabulary(root / "vocabulary_Gref.txt")


QUERIES = {"21_1": ["The box", "left one"], "22_1": ["sky"], "21_2": ["box"]}


def write_referit(root):
    """Write the data set `referit` below `root`, with one split: test."""
    for folder in ("images", "mask"):
        (root / "referit" / folder).mkdir(parents=True)
    (root / "referit_query_test.json").write_text(json.dumps(QUERIES))
    for number, seed in (("21", 1), ("22", 2)):
        image = Image.fromarray(recipe.image(seed, *SIZES[seed]))
        image.save(str(root / "referit" / "images" / (number + ".jpg")))
    for name, annotation in (("21_1", 101), ("21_2", 102), ("22_1", 103)):
        write_mat(root / "referit" / "mask" / (name + ".mat"), ~MASKS[annotation])
    write_vocabulary(root / "vocabulary_referit.txt")


def write_mat(path, segments, key="segimg_t"):
    """Write a mask as ReferIt has it: 0 on the object, something else around."""
    scipy.io.savemat(str(path), {key: segments.astype(np.uint8) * 7})


def python2_pickle(value, protocol):
    """Pickle plain data as Python 2 does with byte strings, protocol 0 or 2."""

    def dump(item):
        if isinstance(item, int):
            return b"I%d\n" % item
        if isinstance(item, bytes) and protocol == 0:
            return b"S" + repr(item)[1:].encode("ascii") + b"\n"
        if isinstance(item, bytes):
            return b"U" + bytes([len(item)]) + item
        if isinstance(item, str):
            return dump(item.encode("utf-8"))
        if isinstance(item, dict):
            pairs = (dump(key) + dump(content) for key, content in item.items())
            return b"(" + b"".join(pairs) + b"d"
        return b"(" + b"".join(map(dump, item)) + b"l"

    return (b"" if protocol == 0 else b"\x80\x02") + dump(value) + b"."
