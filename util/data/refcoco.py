"""The annotations of RefCOCO, RefCOCO+, RefCOCOg and `shapes`.

They come from the internet, so nothing in them is trusted: a pickle can yield plain
data only.
"""

import os
from typing import Any, Dict, Iterator, List, Tuple

from util.core.errors import UserError
from util.core.files import read_json
from util.data import pickles
from util.data.datasets import Dataset
from util.data.referent import Referent

REF_FIELDS = {"ann_id": int, "image_id": int, "split": str, "sentences": list}

COCO_FIELDS = {
    "images": {"id": (int, str), "height": int, "width": int},
    "annotations": {"id": (int, str)},
}


def referents(dataset: Dataset, split: str) -> List[Referent]:
    """Return the referents of a split, see `annotations.referents`."""
    path = dataset.annotation_file(split)
    refs = [ref for ref in load_refs(path) if ref["split"] == split]
    return [
        Referent(
            name,
            dataset.image_file(image["id"]),
            [sentence["sent"] for sentence in ref["sentences"]],
            segmentation=annotation.get("segmentation"),
            size=(image["height"], image["width"]),
            image_id=dataset.image_name(image["id"]),
        )
        for name, ref, image, annotation in with_instances(path, refs)
    ]


def with_instances(
    path: str, refs: List[Dict]
) -> Iterator[Tuple[str, Dict, Dict, Dict]]:
    """Look up refs in the instances.json next to their file.

    Args:
      path: of the refs(x).p.
      refs: of `load_refs`.

    Yields:
      (what to call it in an error, the ref, its image's entry, its annotation).

    Raises:
      UserError: instances.json is missing or damaged, lacks an entry, has an id
        twice, or says another image of a referent.
    """
    instances = os.path.join(os.path.dirname(path), "instances.json")
    images, annotations = coco_entries(instances, read_json(instances))
    for ref in refs:
        annotation, image = ref["ann_id"], ref["image_id"]
        name = f"{path}: referent {annotation}"
        if annotation not in annotations:
            raise UserError(f"{name} has no annotation in {instances}")
        if image not in images:
            raise UserError(f"{name}: its image {image} is not in {instances}")
        shown = annotations[annotation].get("image_id", image)
        if shown != image:
            raise UserError(
                f"{name}: its image is {image}, but {shown!r} in {instances}"
            )
        yield name, ref, images[image], annotations[annotation]


def coco_entries(path: str, content: Any) -> Tuple[Dict[Any, Dict], Dict[Any, Dict]]:
    """Look up the images and annotations of a COCO file by their ids.

    Args:
      path: of the file.
      content: what `read_json` gave.

    Returns:
      {id: image} and {id: annotation}; both have COCO_FIELDS.

    Raises:
      UserError: it is not a COCO file, or two entries differ and have the same id;
        names the first bad entry.
    """
    by_id = []
    for key, fields in COCO_FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path} is not a COCO file: it has no list {key!r}")
        for number, entry in enumerate(entries):
            if not _has(entry, fields):
                raise UserError(
                    f"{path} is not a COCO file: {key}, entry {number}: expected an "
                    f"object with {', '.join(fields)}"
                )
        by_id.append(_by_id(path, key, entries))
    return tuple(by_id)


def _by_id(path, key, entries):
    """Return {id: entry}; an id twice is refused unless both say the same."""
    numbers = {}
    for number, entry in enumerate(entries):
        first = numbers.setdefault(entry["id"], number)
        if entries[first] != entry:
            raise UserError(
                f"{path}: the id {entry['id']!r} stands twice in {key}, in entries "
                f"{first} and {number}, which differ: give each its own id"
            )
    return {entry_id: entries[number] for entry_id, number in numbers.items()}


def _has(entry, fields):
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), kind) for key, kind in fields.items()
    )


def load_refs(path: str) -> List[Dict[str, Any]]:
    """Read a refs(x).p, of whatever pickle protocol.

    Args:
      path: the file.

    Returns:
      Its refs: dicts with REF_FIELDS, and a text `sent` in each of the sentences.
      Byte strings of Python 2 have become text.

    Raises:
      UserError: the file is missing or damaged, would run code, or holds no refs.
    """
    refs = pickles.load(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} does not hold a list of refs")
    for number, ref in enumerate(refs):
        if not _is_ref(ref):
            raise UserError(
                f"{path}: entry {number} is not a ref with {', '.join(REF_FIELDS)}"
            )
    return refs


def _is_ref(ref):
    return _has(ref, REF_FIELDS) and all(
        _has(sentence, {"sent": str}) for sentence in ref["sentences"]
    )
