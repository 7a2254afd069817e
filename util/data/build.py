"""Build the samples of a split from its annotations."""

import contextlib
import functools
import os
import sys
from typing import List, NamedTuple, Optional

from tqdm import tqdm

from util.core import files, npz, parallel
from util.core.errors import Mistakes, UserError
from util.data import (
    annotations,
    build_info,
    compact,
    doubts,
    im_processing,
    sources,
    text_processing,
)
from util.data.datasets import UPRIGHT, Dataset
from util.data.referent import Referent, check_files, examine, load
from util.data.samples import has_samples, remove_samples, sample_file, write_sample


class _Object(NamedTuple):
    """A referent, the number of its first sample and the ids of its sentences."""

    referent: Referent
    first: int
    words: List[List[int]]


class _Image(NamedTuple):
    """An image, by its number, and the referents in it that have sentences."""

    number: int
    objects: List[_Object]

    @property
    def num_samples(self):
        return sum(len(one.words) for one in self.objects)

    @property
    def referents(self):
        return [one.referent for one in self.objects]

    def name(self):
        """Return what to call it in an error."""
        return f"{self.objects[0].referent.image} or a mask of it"

    def samples(self):
        """Yield (number, ids, sentence, number of its mask) of each sample."""
        for mask, (referent, first, words) in enumerate(self.objects):
            for n, sentence in enumerate(referent.sentences):
                yield first + n, words[n], sentence, mask


class _FileBuilder(NamedTuple):
    """Builds one file a sample."""

    folder: str
    prefix: str

    def todo(self, images):
        """Return the images that are still to be built."""
        return [image for image in images if not self._has(image)]

    def _has(self, image):
        numbers = (number for number, *_ in image.samples())
        return all(npz.is_whole(self._path(number)) for number in numbers)

    def begin(self, images):
        """Nothing comes before the images."""

    def build(self, image, im, masks):
        """Write the samples of an image, fitted already."""
        name = image.objects[0].referent.image_name
        # Turned into bytes once, however many files take them.
        im, masks = npz.as_npy(im), [npz.as_npy(mask) for mask in masks]
        for number, words, sentence, mask in image.samples():
            path = self._path(number)
            write_sample(path, words, im, masks[mask], sentence, name)

    def remove(self):
        """Remove all samples."""
        remove_samples(self.folder, self.prefix)

    def _path(self, number):
        return sample_file(self.folder, self.prefix, number)


class _CompactBuilder(NamedTuple):
    """Builds one file an image, after the index of their samples."""

    folder: str
    prefix: str

    def todo(self, images):
        """Return the images still to be built: all, if they have another index."""
        if not self._has_index(images):
            return images
        return [p for p in images if not npz.is_whole(self._path(p))]

    def begin(self, images):
        """Write the index, if there is none or another one."""
        if not self._has_index(images):
            self.remove()
            compact.write_index(self.folder, self.prefix, self._index(images))

    def build(self, image, im, masks):
        """Write an image, fitted already."""
        compact.write_image(self._path(image), im, masks)

    def remove(self):
        """Remove all samples."""
        compact.remove(self.folder, self.prefix)

    def _path(self, image):
        return compact.image_file(self.folder, self.prefix, image.number)

    def _has_index(self, images):
        try:
            found = compact.read_index(self.folder, self.prefix)
        except UserError:
            return False
        return compact.same(found, self._index(images))

    def _index(self, images):
        entries = {
            number: (words, sentence, image.number, mask)
            for image in images
            for number, words, sentence, mask in image.samples()
        }
        names = [image.objects[0].referent.image_name for image in images]
        return compact.make_index(entries, names)


BUILDERS = {"npz": _FileBuilder, "compact": _CompactBuilder}


def build_samples(
    dataset: Dataset,
    split: str,
    size: Optional[int] = None,
    jobs: Optional[int] = None,
    layout: str = "npz",
    skip_damaged: bool = False,
) -> str:
    """Write the samples of a split, one for each sentence in file order.

    Resumes where an interrupted build stopped. Training splits are stored at the
    network's input size, others at the size of their images.

    Args:
      dataset: see `datasets.get`; its samples go to its `build_dir`.
      split: one of its splits.
      size: height and width of training samples, in pixels; None: the data set's.
      jobs: number of processes that do it; None: this one.
      layout: "npz", one file a sample, or "compact".
      skip_damaged: leave out what is wrong with a warning; every image is opened
        twice.

    Returns:
      The folder of the samples.

    Raises:
      UserError: bad annotations, images or vocabulary, of which all are told at once;
        the folder holds samples that were built from something else, or in the other
        layout; or another process builds them.
    """
    dataset.check_split(split)
    if dataset.name == "shapes" and not os.path.isfile(dataset.annotation_file(split)):
        from util.data import shapes  # not needed for any other data set

        shapes.draw(dataset.root)
    mistakes = Mistakes()
    referents = annotations.referents(dataset, split, mistakes)
    vocab_dict = _vocabulary(dataset)
    checksum = build_info.annotation_checksum(referents)
    planned = _plan(referents, vocab_dict, mistakes)
    if mistakes or skip_damaged:
        planned = _there(planned, mistakes)
    if skip_damaged:
        planned = _without_damaged(planned, dataset.annotated, mistakes, jobs)
    else:
        _refuse(mistakes)
    images = _numbered(planned)
    num_samples = sum(image.num_samples for image in images)
    if not num_samples:
        left_out = f"; left out: {mistakes}" if mistakes else ""
        raise UserError(
            f"the annotations of {dataset.name} have no sentences for {split}{left_out}"
        )
    settings = {
        "size": (size or dataset.input_size) if "train" in split else None,
        "frame": dataset.annotated or UPRIGHT,
        "vocabulary": build_info.file_checksum(dataset.vocabulary_file),
        "annotations": checksum,
        "sentences": num_samples,
        "skipped": len(mistakes),
        "layout": layout,
    }
    folder, prefix = dataset.build_dir(split), dataset.prefix(split)
    with files.locked(folder):
        build_info.check_settings(folder, settings, has_samples(folder, prefix))
        builder = BUILDERS[layout](folder, prefix)
        anything = _build(dataset, builder, images, settings, jobs)
    done = "built" if anything else "already complete"
    print(f"{dataset.name} {split}: {done}, {num_samples} samples in {folder}")
    if mistakes:
        _warn(f"{len(mistakes)} entries are left out: {mistakes}")
    _warn_of_count(f"{dataset.name} {split}", dataset.splits[split], num_samples)
    sentences = [sentence for one in referents for sentence in one.sentences]
    rule = text_processing.rule_of(vocab_dict)
    text_processing.warn_of_foreign_words(sentences, rule)
    return folder


def _vocabulary(dataset):
    path = dataset.vocabulary_file
    if dataset.is_custom and not os.path.isfile(path):
        raise UserError(
            f"there is no vocabulary {path}; make it: {dataset.vocabulary_command}"
        )
    return text_processing.load_vocab_dict_from_file(path)


def _warn_of_count(what, expected, num_samples):
    if expected not in (None, num_samples):
        _warn(
            f"{what} has {num_samples} sentences, "
            f"not the {expected} of the published annotations"
        )


def _warn(text):
    print(f"warning: {text}", file=sys.stderr)


def _plan(referents, vocab_dict, mistakes):
    """Return the referents that have sentences, with the ids of these."""
    chosen = []
    for referent in referents:
        with mistakes.gathered():
            try:
                words = [
                    text_processing.preprocess_sentence(sentence, vocab_dict)
                    for sentence in referent.sentences
                ]
            except UserError as error:
                raise UserError(f"{referent.name}: {error}") from error
            if words:
                chosen.append((referent, words))
    return chosen


def _there(planned, mistakes):
    """Return those of `_plan` whose files are there."""
    referents = check_files([referent for referent, _ in planned], mistakes)
    kept = set(map(id, referents))
    return [one for one in planned if id(one[0]) in kept]


def _numbered(planned):
    """Return the images of `_plan`, their samples numbered in its order."""
    images, first = {}, 0
    for referent, words in planned:
        one = _Object(referent, first, words)
        images.setdefault(referent.image, []).append(one)
        first += len(words)
    return [_Image(n, objects) for n, objects in enumerate(images.values())]


def _without_damaged(planned, annotated, mistakes, jobs):
    """Return those of `_plan` that can be read; opens all images."""
    groups = {}
    for place, (referent, _) in enumerate(planned):
        groups.setdefault(referent.image, []).append(place)
    tasks = [[planned[place][0] for place in places] for places in groups.values()]
    work = functools.partial(examine, annotated=annotated)
    errors = {}
    bar = tqdm(total=len(tasks), desc="examining", unit=" images")
    with bar, contextlib.closing(
        parallel.run(work, tasks, max(1, min(jobs, len(tasks))))
    ) as found:
        for places, some in zip(groups.values(), found):
            bar.update(1)
            errors.update(zip(places, some))
    for place in range(len(planned)):
        if errors[place]:
            mistakes.add(errors[place])
    return [one for place, one in enumerate(planned) if not errors[place]]


def _refuse(mistakes):
    """Raise a UserError that tells of mistakes, if there are any."""
    if mistakes:
        raise UserError(f"{mistakes} (--skip-damaged leaves out what is wrong)")


def _build(dataset, builder, images, settings, jobs):
    """Build what is missing and return whether anything was."""
    todo = builder.todo(images)
    numbers = {image.number for image in todo}
    built = [image for image in images if image.number not in numbers]
    sources.check(builder.folder, dataset, _referents(built))
    known = (build_info.read(builder.folder) or {}).get("doubts", {})
    if todo:
        gone = Mistakes()
        check_files(_referents(todo), gone)
        _refuse(gone)
        sources.write(builder.folder, dataset, _referents(todo), jobs)
        build_info.write(builder.folder, dict(settings, doubts=known), complete=False)
        files.remove_parts(builder.folder)
        builder.begin(images)
        known = _run(builder, todo, settings, dataset.annotated, jobs, known)
    _tell(builder, known, images)
    build_info.write(builder.folder, dict(settings, doubts=known), complete=True)
    return bool(todo)


def _referents(images):
    return [one for image in images for one in image.referents]


def _run(builder, todo, settings, annotated, jobs, known):
    """Build images, with a progress bar; return the doubts that are known then."""
    work = functools.partial(
        _build_image, builder=builder, size=settings["size"], annotated=annotated
    )
    total, found, mistakes = settings["sentences"], [], Mistakes()
    bar = tqdm(
        total=total,
        initial=total - sum(image.num_samples for image in todo),
        desc=builder.prefix,
        unit=" samples",
    )
    looked_at = {one.short_name for one in _referents(todo)}
    looked_at |= {one.image_name for one in _referents(todo)}
    try:
        with bar, contextlib.closing(
            parallel.run(work, todo, jobs and min(jobs, len(todo)), _Image.name)
        ) as results:
            for image, (about, errors) in zip(todo, results):
                found += about
                for error in errors:
                    mistakes.add(error)
                bar.update(image.num_samples)
    finally:  # what was found so far is not found again when the build goes on
        known = doubts.renewed(known, looked_at, found)
        build_info.write(builder.folder, dict(settings, doubts=known), complete=False)
    _refuse(mistakes)
    return known


def _tell(builder, known, images):
    """Warn of the doubts; refuse objects of which none has a pixel."""
    objects = sum(one.segmentations != [] for one in _referents(images))
    if doubts.are_all_empty(known, objects):
        names = known.get(doubts.NO_PIXEL, []) + known.get(doubts.SMALL, [])
        builder.remove()
        sources.remove(builder.folder)
        build_info.remove(builder.folder)
        raise UserError(
            f"{builder.prefix}: none of the {objects} objects has a pixel, as if the "
            f"annotations were of other images: {doubts.first(names)}"
        )
    for sentence in doubts.sentences(known, objects, len(images)):
        _warn(f"{builder.prefix}: {sentence}")


def _build_image(image, builder, size, annotated):
    """Build the samples of an image; return what may be wrong with it, and what is."""
    try:
        im, masks, found = load(image.referents, annotated)
    except UserError as error:
        errors = [each for each in examine(image.referents, annotated) if each]
        return [], errors or [str(error)]
    if size:
        whole, masks = masks, [im_processing.fit_mask(m, size, size) for m in masks]
        im = im_processing.fit_image(im, size, size)
        for referent, mask, fitted in zip(image.referents, whole, masks):
            if mask.any() and not fitted.any():
                found.append((doubts.SMALL, referent.short_name))
    builder.build(image, im, masks)
    return found, []
