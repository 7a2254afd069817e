"""COCO's files of what was predicted: results, and a data set for label tools."""

import contextlib
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from pycocotools import mask as coco_mask

from util.core import files
from util.core.errors import UserError

# Label tools and `build_batches.py --annotations` read the split from such a name.
RESULTS, DATA_SET = "coco_results.json", "instances_train.json"
CATEGORY = 1  # of all that is found
# COCO's own names say an id: COCO_train2014_000000000009.jpg, 000000000009.jpg.
OWN_NAME = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?([0-9]{12})")


class Ids(NamedTuple):
    """The ids and names that images have in COCO's files.

    Attributes:
      of: path of an image -> its id.
      names: id -> the image's file_name.
      source: where the ids come from, to be printed.
      place: where the names begin, to be printed.
    """

    of: Dict[str, int]
    names: Dict[int, str]
    source: str
    place: str


def image_ids(paths: Sequence[str], truth: Optional[str] = None) -> Ids:
    """Return the ids of images: from a ground truth, from their names, or invented.

    Args:
      paths: of the images; several of one image are the same image.
      truth: path of a COCO file that lists them; None: COCO's own names say ids, and
        where not all images have such a name all are numbered from 1. Names of files
        then begin at the folder that holds all images.

    Raises:
      UserError: the file cannot be read, or does not list each image once.
    """
    places = {path: _place(path) for path in paths}
    images = list(dict.fromkeys(places.values()))
    if truth is not None:
        listed = _listed({place: path for path, place in places.items()}, truth)
        ids = {image: number for image, (number, _) in listed.items()}
        names = dict(listed.values())
        source, place = f"those of {truth}", f"named as in {truth}"
    else:
        ids, source = _own_ids(images)
        folder = os.path.commonpath([os.path.dirname(image) for image in images])
        names = {ids[image]: os.path.relpath(image, folder) for image in images}
        place = f"below {folder}"
    return Ids({path: ids[places[path]] for path in paths}, names, source, place)


def _place(path):
    """Return the absolute path of a file; its own name stays where it is a link."""
    folder, name = os.path.split(path)
    if ".." in folder.split(os.sep):  # behind a link only the file system knows it
        with contextlib.suppress(ValueError):  # no such name can be
            return os.path.join(os.path.realpath(folder), name)
    return os.path.join(os.path.abspath(folder), name)


def _own_ids(images):
    """Return image -> id, and where they come from."""
    found = [OWN_NAME.fullmatch(os.path.splitext(_name(image))[0]) for image in images]
    ids = [int(name.group(1)) for name in found if name]
    if len(ids) == len(set(ids)) == len(images):
        return dict(zip(images, ids)), "from the images' names, which are COCO's"
    return (
        {image: number for number, image in enumerate(images, 1)},
        "invented, from 1 in the order of the images: --coco-images FILE takes those "
        "of a ground truth",
    )


def _name(path):
    return os.path.basename(path)


def _listed(images, truth):
    """Return image -> (id, name) of the entry whose file_name is the end of its path.

    Args:
      images: where an image lies -> what to call it.
    """
    known, found, owners = _read(truth), {}, {}
    for image, path in images.items():
        found[image] = number, _ = _find(image, path, known, truth)
        other = owners.setdefault(number, path)
        if other != path:
            raise UserError(
                f"{other} and {path} are both image {number} of {truth}: give each "
                "image once, by paths that end as its file_name does"
            )
    return found


def _read(truth):
    """Return file_name -> the ids that entries of this name have."""
    content, known = files.read_json(truth), {}
    try:
        for entry in content["images"]:
            number, name = entry["id"], os.path.normpath(entry["file_name"])
            if isinstance(number, bool) or not isinstance(number, int):
                raise ValueError(f"the id {number!r} of {name} is no whole number")
            known.setdefault(name, set()).add(number)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{truth} is not a COCO file with id and file_name of images: {error!r}"
        ) from error
    return known


def _find(image, path, known, truth):
    parts = image.split(os.sep)
    for first in range(len(parts)):  # the longest end that is a name
        name = os.sep.join(parts[first:])
        ids = known.get(name, ())
        if len(ids) > 1:
            raise UserError(
                f"{truth} has {len(ids)} ids for {path}: file_name must tell them apart"
            )
        if ids:
            return next(iter(ids)), name
    raise UserError(f"{truth} lists no image {_name(path)} ({path})")


def data_set(results: Sequence[Dict[str, Any]], ids: Ids) -> Dict[str, List]:
    """Return a COCO file that label tools open and `--annotations` reads.

    Args:
      results: of a file of results: image_id, segmentation (compressed run lengths at
        the image's size, turned upright), bbox, score, and sentence.
      ids: of the images.

    Returns:
      Lists of images, annotations and categories. An annotation has the sentence twice,
      since label tools keep nothing but attributes. Results without a pixel have none:
      there is nothing to correct, and as an annotation they would be wrong.

    Example:
      >>> mask = {"size": [2, 3], "counts": "22"}  # two pixels off, two on
      >>> found = {"image_id": 7, "segmentation": mask, "bbox": [1, 0, 1, 2]}
      >>> found.update(score=0.9, sentence="left")
      >>> made = data_set([found], Ids({}, {7: "a.jpg"}, "", ""))
      >>> made["images"]
      [{'id': 7, 'file_name': 'a.jpg', 'width': 3, 'height': 2}]
      >>> [(one["area"], one["sentences"]) for one in made["annotations"]]
      [(2, ['left'])]
    """
    images, annotations = {}, []
    for result in results:
        number, mask = result["image_id"], result["segmentation"]
        height, width = mask["size"]
        images[number] = {
            "id": number,
            "file_name": ids.names[number],
            "width": width,
            "height": height,
        }
        area = int(coco_mask.area(mask))
        if area:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY,
                    "segmentation": mask,
                    "bbox": result["bbox"],
                    "area": area,
                    "iscrowd": 1,  # or tools make polygons of it and lose its holes
                    "score": result["score"],
                    "sentences": [result["sentence"]],
                    "attributes": {"sentence": result["sentence"]},
                }
            )
    categories = [{"id": CATEGORY, "name": "object", "supercategory": ""}]
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": categories,
    }
