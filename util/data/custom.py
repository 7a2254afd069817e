"""Custom data sets: annotations and images of a user's own, remembered by a name."""

import dataclasses
import glob
import os
import sys
from typing import List, Optional

from util.core.errors import Mistakes, UserError
from util.data import build_info, coco_images, datasets, doubts, forms, sources
from util.data.datasets import Dataset
from util.data.forms import Entry
from util.data.referent import Referent
from util.data.samples import has_samples


def register(
    name: str,
    annotations: str,
    images: str,
    split: str,
    root: str = "data",
    batches: Optional[str] = None,
    annotated: Optional[str] = None,
    mistakes: Optional[Mistakes] = None,
) -> Dataset:
    """Check an annotation file and remember it as a data set.

    Args:
      name: of the data set; a custom one of that name is replaced.
      annotations: path of the file, or of a folder of files.
      images: path of the folder with the images.
      split: one that is wanted of it.
      root, batches: as for `datasets.get`.
      annotated: see `Dataset`.
      mistakes: see `forms.read`.

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
    entries = forms.read(annotations, mistakes)
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
    _tell_source(annotations, entries)
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


def _tell_source(annotations, entries):
    """Print which attribute has the sentences, and of which annotations it has none."""
    chosen = {entry.source for entry in entries} - {*forms.TEXTS, forms.BLANK}
    if chosen:
        print(f"{annotations}: the sentences are those of {', '.join(sorted(chosen))}")
    blank = [entry.name for entry in entries if entry.source == forms.BLANK]
    if blank:
        names = doubts.first([name.rpartition(": ")[2] for name in blank])
        print(
            f"warning: {annotations}: {len(blank)} annotations whose sentence is empty "
            f"are left out: {names}",
            file=sys.stderr,
        )


def referents(dataset: Dataset, split: str, mistakes: Mistakes) -> List[Referent]:
    """Return the referents of a split, see `annotations.referents`."""
    return _referents(dataset, split, forms.read(dataset.annotations, mistakes))


def _referents(dataset, split: str, entries: List[Entry]) -> List[Referent]:
    found = []
    for entry in entries:
        if entry.split != split or entry.source == forms.BLANK:
            continue
        image = os.path.normpath(entry.image)
        found.append(
            Referent(
                entry.name,
                coco_images.find([os.path.join(dataset.images, image)]),
                entry.sentences,
                segmentations=entry.segmentations,
                size=entry.size,
                mask_image=entry.mask_image,
                image_id=image,
            )
        )
    return found


def training_sentences(path: str, mistakes: Optional[Mistakes] = None) -> List[str]:
    """Return the sentences for training; all where no split's name says so.

    Raises:
      UserError: see `forms.read`.
    """
    entries = forms.read(path, mistakes)
    training = [entry for entry in entries if "train" in entry.split]
    return [sentence for entry in training or entries for sentence in entry.sentences]
