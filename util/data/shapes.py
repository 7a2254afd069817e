"""Draw the embedded data set `shapes`: scenes and sentences in RefCOCO's files."""

import itertools
import json
import os
import pickle
from typing import Dict, List, Optional, Tuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from util.core.files import writing
from util.data import datasets
from util.data.shapes_scenes import (
    KINDS,
    SENTENCES,
    SHAPES,
    Figure,
    Scene,
    make_scene,
    vocabulary,
)

SCENES = {"train": 1500, "val": 60, "test": 60}
FINENESS = 4  # figures are drawn that much larger, then shrunk


def outline(figure: Figure) -> np.ndarray:
    """Return the corners of a figure, float64 [N, 2], column before row."""
    centre = np.array([figure.column, figure.row])
    return np.round(centre + figure.span * SHAPES[figure.look.shape], 2)


def _ground(rng: np.random.RandomState, frame: Tuple[int, int]) -> np.ndarray:
    """Return a greyish ground, float64 [H, W, 3]: a ramp and soft clouds."""
    height, width = frame
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = rng.uniform(-24, 24, 2)
    ramp = slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5)
    seeds = Image.fromarray(rng.uniform(-14, 14, (7, 7)).astype(np.float32))
    clouds = np.asarray(seeds.resize((width, height), Image.BICUBIC), np.float64)
    tint = rng.uniform(110, 190) + rng.uniform(-7, 7, 3)
    return (ramp + clouds)[:, :, None] + tint


def _rle(corners: np.ndarray, height: int, width: int) -> Dict:
    """Return the inside of a polygon as pycocotools' compressed RLE."""
    return coco_mask.frPyObjects([corners.ravel().tolist()], height, width)[0]


def _coverage(figure: Figure, frame: Tuple[int, int]) -> np.ndarray:
    """Return the share of each pixel that a figure covers, float64 [H, W, 1]."""
    height, width = frame
    rle = _rle(FINENESS * outline(figure), FINENESS * height, FINENESS * width)
    # Columns first, as they lie in memory: NumPy's mean over both axes is slower.
    fine = coco_mask.decode(rle).T.reshape(width, FINENESS, height, FINENESS)
    inside = sum(
        fine[:, row, :, column] for row in range(FINENESS) for column in range(FINENESS)
    )
    return (inside.T / FINENESS**2)[:, :, None]


def render(rng: np.random.RandomState, scene: Scene) -> np.ndarray:
    """Draw a scene.

    Args:
      rng: of the ground and the noise.
      scene: what to draw.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    image = _ground(rng, scene.frame)
    for figure in scene.figures:
        coverage = _coverage(figure, scene.frame)
        image += coverage * (np.array(figure.rgb) - image)
    image += rng.normal(0, 5, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _annotation(figure: Figure, ann_id: int, frame: Tuple[int, int]) -> Dict:
    """Return COCO's entry of a figure; two in seven masks are RLE: COCO has both."""
    corners = outline(figure)
    rle = _rle(corners, *frame)
    segmentation = [corners.ravel().tolist()]
    if ann_id % 7 == 1:
        segmentation = {"size": list(frame), "counts": rle["counts"].decode("ascii")}
    elif ann_id % 7 == 2:
        flat = coco_mask.decode(rle).ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        segmentation = {"size": list(frame), "counts": runs.tolist()}
    first, last = corners.min(axis=0), corners.max(axis=0)
    return {
        "id": ann_id,
        "image_id": ann_id // 10,
        "category_id": 1 + list(SHAPES).index(figure.look.shape),
        "segmentation": segmentation,
        "area": int(coco_mask.area(rle)),
        "bbox": np.round([*first, *(last - first)], 2).tolist(),
        "iscrowd": 0,
    }


def _ref(ref_id: int, split: str, annotation: Dict, texts: List[str]) -> Dict:
    """Return RefCOCO's entry of the sentences about a figure."""
    first_id = SENTENCES * ref_id
    sentences = [
        {"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split()}
        for sent_id, text in enumerate(texts, first_id)
    ]
    return {
        "ref_id": ref_id,
        "split": split,
        "image_id": annotation["image_id"],
        "ann_id": annotation["id"],
        "category_id": annotation["category_id"],
        "file_name": f"shapes_{annotation['image_id']:012d}_{annotation['id']}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


def _instances(images: List[Dict], annotations: List[Dict]) -> Dict:
    """Return what COCO's instances.json holds."""
    return {
        "info": {"description": "RefSeg shapes", "version": "1.0"},
        "licenses": [{"id": 1, "name": "no rights reserved", "url": ""}],
        "categories": [
            {"id": n, "name": shape, "supercategory": "figure"}
            for n, shape in enumerate(SHAPES, 1)
        ],
        "images": images,
        "annotations": annotations,
    }


def draw(root: str, seed: int = 0, num_scenes: Optional[Dict[str, int]] = None) -> None:
    """Write the data set: images, annotations, refs and vocabulary.

    The refs come last, so where they are everything is: then nothing is done,
    whatever the seed. What an interrupted call left is written over.

    Args:
      root: the data folder; made where missing.
      seed: 0 or more. The same seed gives the same bytes with the same
        libraries; a scene depends on the seed, its split and its number only.
      num_scenes: split -> number of scenes, of the splits in SCENES; SCENES when
        None. The three kinds take turns.

    Raises:
      ValueError: a split that SCENES does not have.
      UserError: a file cannot be written.
    """
    dataset = datasets.get("shapes", root)
    refs_file = dataset.annotation_file("train")  # one for all splits
    if os.path.exists(refs_file):
        return
    counts = SCENES if num_scenes is None else num_scenes
    todo = [(split, n) for split in counts for n in range(counts[split])]
    images, annotations, refs = [], [], []
    progress = tqdm(todo, desc="drawing shapes", unit="scene")
    for image_id, (split, n) in enumerate(progress, 1):
        rng = np.random.RandomState([seed, list(SCENES).index(split), n])
        scene = make_scene(rng, KINDS[n % len(KINDS)])
        path = dataset.image_file(image_id)
        with writing(path) as file:
            image = Image.fromarray(render(rng, scene))
            image.save(file, "JPEG", quality=95, subsampling=0)
        size = dict(zip(("height", "width"), scene.frame))
        name = os.path.basename(path)
        images.append(dict(size, id=image_id, file_name=name, license=1))
        figures = [
            _annotation(figure, 10 * image_id + k, scene.frame)
            for k, figure in enumerate(scene.figures)
        ]
        annotations += figures
        for target, said in itertools.groupby(scene.sentences, lambda s: s.target):
            texts = [sentence.text for sentence in said]
            refs.append(_ref(len(refs), split, figures[target], texts))
    with writing(dataset.vocabulary_file, "w") as file:
        file.writelines(word + "\n" for word in vocabulary())
    instances_file = os.path.join(os.path.dirname(refs_file), "instances.json")
    with writing(instances_file, "w") as file:
        json.dump(_instances(images, annotations), file, sort_keys=True)
    with writing(refs_file) as file:
        pickle.dump(refs, file, protocol=2)
