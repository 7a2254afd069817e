"""Custom data sets: annotations in three forms, recognised by their content.

A refs(x).p of RefCOCO's with instances.json next to it; a JSON list, one object with
its sentences an entry; or COCO's JSON whose annotations carry sentences. data/README.md
shows them. What they say becomes part of paths only where it cannot lead elsewhere.
"""

import dataclasses
import glob
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from util.core import files
from util.core.errors import UserError
from util.data import build_info, coco_images, datasets, refcoco, sources
from util.data.datasets import Dataset
from util.data.referent import Referent
from util.data.samples import has_samples

PICKLE_STARTS = (b"\x80", b"(", b"]")
ENTRY = '"image", "sentences", "split", and "segmentation" or "mask"'


class Entry(NamedTuple):
    """What an annotation file says of one object.

    Attributes:
      name: what to call it in an error.
      image: the image's path below the folder of images.
      split: a plain name.
      sentences: the texts.
      segmentation: COCO's mask; None: there is `mask`.
      mask: path of a mask that is an image, from the folder of the file.
      size: (height, width) of the image in pixels, where the file says it.
    """

    name: str
    image: str
    split: str
    sentences: List[str]
    segmentation: Any = None
    mask: Optional[str] = None
    size: Optional[Tuple[int, int]] = None


def register(
    name: str,
    annotations: str,
    images: str,
    split: str,
    root: str = "data",
    batches: Optional[str] = None,
    annotated: Optional[str] = None,
) -> Dataset:
    """Check an annotation file and remember it as a data set.

    Args:
      name: of the data set; a custom one of that name is replaced.
      annotations: path of the file.
      images: path of the folder with the images.
      split: one that is wanted of it.
      root, batches: as for `datasets.get`.
      annotated: see `Dataset`.

    Returns:
      The data set.

    Raises:
      UserError: a bad name, file or folder; no such split; there are samples that
        were built from other annotations; or from other images, and then the new
        folder is remembered even so: the next build must not go on with the old one.
    """
    datasets.check_custom_name(name, root)
    if not os.path.isdir(images):
        raise UserError(f"--images {images}: there is no such folder")
    entries = read(annotations)
    splits = list(dict.fromkeys(entry.split for entry in entries))
    if split not in splits:
        raise UserError(
            f"{annotations} has no split {split!r}; choose from {', '.join(splits)}"
        )
    dataset = datasets.custom(name, annotations, images, splits, root, batches)
    dataset = dataclasses.replace(dataset, annotated=annotated)
    built = _built(dataset, entries)
    for folder, chosen in built:
        settings = {
            "annotations": build_info.annotation_checksum(chosen),
            "frame": annotated or datasets.UPRIGHT,
        }
        build_info.check_settings(folder, settings, True)
    datasets.remember(dataset)
    for folder, chosen in built:
        if build_info.read(folder)["complete"]:  # else when it is finished
            sources.check(folder, dataset, chosen)
    return dataset


def _built(dataset, entries):
    """Return the folders with samples, and what these entries say of their splits."""
    parent = os.path.join(dataset.batches or dataset.root, dataset.name)
    built = []
    for folder in sorted(glob.glob(os.path.join(glob.escape(parent), "*_batch"))):
        split = os.path.basename(folder)[: -len("_batch")]
        if has_samples(folder, dataset.prefix(split)):
            built.append((folder, _referents(dataset, split, entries)))
    return built


def referents(dataset: Dataset, split: str) -> List[Referent]:
    """Return the referents of a split, see `annotations.referents`."""
    return _referents(dataset, split, read(dataset.annotations))


def _referents(dataset, split, entries):
    folder = os.path.dirname(dataset.annotations)
    found = []
    for entry in entries:
        if entry.split != split:
            continue
        image, mask = os.path.normpath(entry.image), None
        if entry.mask is not None:
            mask = os.path.join(folder, entry.mask)
        found.append(
            Referent(
                entry.name,
                coco_images.find([os.path.join(dataset.images, image)]),
                entry.sentences,
                segmentation=entry.segmentation,
                size=entry.size,
                mask_image=mask,
                image_id=image,
            )
        )
    return found


def training_sentences(path: str) -> List[str]:
    """Return the sentences for training; all where no split's name says so.

    Raises:
      UserError: see `read`.
    """
    entries = read(path)
    training = [entry for entry in entries if "train" in entry.split]
    return [sentence for entry in training or entries for sentence in entry.sentences]


def is_custom(path: str) -> bool:
    """Say whether a JSON file has one of the forms of this module.

    Raises:
      UserError: the file is missing or damaged.
    """
    content = files.read_json(path)
    is_coco = isinstance(content, dict) and "annotations" in content
    return is_coco or isinstance(content, list)


def read(path: str) -> List[Entry]:
    """Read annotations of any of the three forms.

    Args:
      path: the file.

    Returns:
      Its entries in file order; one at least.

    Raises:
      UserError: the file is missing, damaged or of another form, or an entry is
        wrong; names file and entry and says what is expected.
    """
    with open(files.require_file(path), "rb") as file:
        start = file.read(64).lstrip()[:1]
    content = files.read_json(path) if start in (b"[", b"{") else None
    if start in PICKLE_STARTS:
        entries = list(_of_refs(path))
    elif isinstance(content, list):
        entries = [_of_item(path, *numbered) for numbered in enumerate(content)]
    elif content and "annotations" in content:
        entries = list(_of_coco(path, content))
    else:
        raise UserError(
            f"{path} has none of the three forms of annotations: see Your own data in "
            "data/README.md"
        )
    if not entries:
        raise UserError(f"{path} holds no sentences")
    for entry in entries:
        _check(entry)
    return entries


def _of_refs(path: str) -> Iterator[Entry]:
    found = refcoco.with_instances(path, refcoco.load_refs(path))
    for name, ref, image, annotation in found:
        yield _of_annotation(name, image, annotation, ref["split"], ref["sentences"])


def _of_coco(path: str, content: Dict) -> Iterator[Entry]:
    """Yield the entries of the annotations that carry sentences."""
    images, _ = refcoco.coco_entries(path, content)
    for annotation in content["annotations"]:
        if "sentences" not in annotation:
            continue
        name = f"{path}: annotation {annotation['id']}"
        number = annotation.get("image_id")
        image = images.get(number) if isinstance(number, (int, str)) else None
        if image is None:
            raise UserError(f"{name}: its image {number!r} is not among the images")
        split = annotation.get("split", image.get("split"))
        yield _of_annotation(name, image, annotation, split, annotation["sentences"])


def _of_annotation(name, image, annotation, split, sentences) -> Entry:
    return Entry(
        name,
        image.get("file_name"),
        split,
        _texts(name, sentences),
        segmentation=annotation.get("segmentation"),
        size=(image["height"], image["width"]),
    )


def _of_item(path: str, number: int, item: Any) -> Entry:
    name = f"{path}: entry {number}"
    if not isinstance(item, dict) or ("mask" in item) == ("segmentation" in item):
        raise UserError(f"{name}: expected an object with {ENTRY}")
    if "mask" in item and not _is_inside(item["mask"]):
        raise UserError(
            f"{name}: its mask {item['mask']!r} is not a path below the folder of "
            f"{path}"
        )
    return Entry(
        name,
        item.get("image"),
        item.get("split"),
        _texts(name, item.get("sentences")),
        segmentation=item.get("segmentation"),
        mask=item.get("mask"),
    )


def _texts(name: str, sentences: Any) -> List[str]:
    """Return sentences as texts, whether they are that or objects with one."""
    texts = [
        sentence.get("sent", sentence.get("raw"))
        if isinstance(sentence, dict)
        else sentence
        for sentence in (sentences if isinstance(sentences, list) else [None])
    ]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f'{name}: "sentences" must be a list of texts, or of objects with "sent"'
        )
    return texts


def _check(entry: Entry) -> None:
    if not _is_inside(entry.image):
        raise UserError(
            f"{entry.name}: its image {entry.image!r} is not a path below the folder "
            "of --images"
        )
    if not (
        isinstance(entry.split, str) and datasets.PLAIN_NAME.fullmatch(entry.split)
    ):
        raise UserError(
            f'{entry.name}: its "split" is {entry.split!r}; expected a plain name such '
            "as train or val"
        )


def _is_inside(path: Any) -> bool:
    """Say whether a text is a relative path that stays below where it begins."""
    if not isinstance(path, str):
        return False
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    parts = path.replace("\\", "/").split("/")
    return not os.path.isabs(path) and "\0" not in path and not {"", ".."} & set(parts)
