"""The annotations of RefCOCO, RefCOCO+, RefCOCOg and `shapes`.

They come from the internet, so nothing in them is trusted: a pickle can yield plain
data only.
"""

import os
from typing import Any, Dict, List, Optional, Tuple

from util.core.errors import Mistakes, UserError, gathering
from util.core.files import read_json
from util.data import pickles
from util.data.datasets import Dataset
from util.data.referent import Referent

REF_FIELDS = {
    "ann_id": (int, str, list),
    "image_id": int,
    "split": str,
    "sentences": list,
}
NOTHING = -1  # what gRefCOCO has in the place of an annotation's id

COCO_FIELDS = {
    "images": {"id": (int, str), "height": int, "width": int},
    "annotations": {"id": (int, str)},
}


def referents(dataset: Dataset, split: str, mistakes: Mistakes) -> List[Referent]:
    """Return the referents of a split, see `annotations.referents`."""
    path = dataset.annotation_file(split)
    refs, found = load_refs(path, mistakes), []
    instances = Instances(path)
    for ref in refs:
        if ref["split"] != split:
            continue
        with mistakes.gathered():
            image, annotations = instances.of(ref)
            found.append(
                Referent(
                    instances.name(ref),
                    dataset.image_file(image["id"]),
                    [sentence["sent"] for sentence in ref["sentences"]],
                    segmentations=[one.get("segmentation") for one in annotations],
                    size=(image["height"], image["width"]),
                    image_id=dataset.image_name(image["id"]),
                )
            )
    return found


class Instances:
    """The instances.json next to a file of refs.

    Args:
      path: str, of the refs.

    Raises:
      UserError: instances.json is missing or damaged, or has an id twice.
    """

    def __init__(self, path: str) -> None:
        self._refs = path
        self._path = os.path.join(os.path.dirname(path), "instances.json")
        content = read_json(self._path)
        self._images, self._annotations = coco_entries(self._path, content)

    def name(self, ref: Dict) -> str:
        """Return what to call a ref in an error."""
        ids = targets(ref)
        if not ids:
            return f"{self._refs}: ref {ref.get('ref_id')} about nothing"
        return f"{self._refs}: referent {', '.join(map(str, ids))}"

    def of(self, ref: Dict) -> Tuple[Dict, List[Dict]]:
        """Look up a ref of `load_refs`.

        Returns:
          Its image's entry, and the annotations that are meant; [] for nothing.

        Raises:
          UserError: instances.json lacks one of them, or says another image.
        """
        number, name = ref["image_id"], self.name(ref)
        if number not in self._images:
            raise UserError(f"{name}: its image {number} is not in {self._path}")
        found = [self._annotation(name, each, number) for each in targets(ref)]
        return self._images[number], found

    def _annotation(self, name, number, image):
        if number not in self._annotations:
            raise UserError(f"{name} has no annotation {number} in {self._path}")
        shown = self._annotations[number].get("image_id", image)
        if shown != image:
            raise UserError(
                f"{name}: its image is {image}, but {shown!r} in {self._path}"
            )
        return self._annotations[number]


def targets(ref: Dict) -> List[Any]:
    """Return the ids of the annotations that a ref means.

    Example:
      >>> targets({"ann_id": 7}), targets({"ann_id": [7, 9]}), targets({"ann_id": [-1]})
      ([7], [7, 9], [])
    """
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [] if ids == [NOTHING] else ids


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


def load_refs(path: str, mistakes: Optional[Mistakes] = None) -> List[Dict[str, Any]]:
    """Read a refs(x).p, of whatever pickle protocol, or the same as JSON.

    Args:
      path: the file; JSON if its name ends so.
      mistakes: see `annotations.referents`.

    Returns:
      Its refs: dicts with REF_FIELDS, and a text `sent` in each of the sentences.
      Byte strings of Python 2 have become text.

    Raises:
      UserError: the file is missing or damaged, would run code, or holds no refs.
    """
    refs = read_json(path) if path.endswith(".json") else pickles.load(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} does not hold a list of refs")
    with gathering(mistakes) as gathered:
        sound = []
        for number, ref in enumerate(refs):
            with gathered.gathered():
                check_ref(f"{path}: entry {number}", ref)
                sound.append(ref)
    return sound


def check_ref(name: str, ref: Any) -> None:
    """Refuse what is no ref.

    Args:
      name: what to call it in an error.
      ref: see `load_refs`.

    Raises:
      UserError: a field is missing or wrong, or contradicts another one.
    """
    sentences = ref["sentences"] if _has(ref, REF_FIELDS) else [None]
    if not all(_has(sentence, {"sent": str}) for sentence in sentences):
        raise UserError(f"{name} is not a ref with {', '.join(REF_FIELDS)}")
    ids = targets(ref)
    if not all(isinstance(each, (int, str)) for each in ids):
        raise UserError(f"{name}: its ann_id {ids} is no list of ids")
    if bool(ref.get("no_target", not ids)) != (not ids):
        raise UserError(
            f"{name}: its no_target is {ref['no_target']}, but its ann_id {ids}"
        )
