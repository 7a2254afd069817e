"""One sentence with its picture and mask is a sample; one sample is one file.

The files are those of the reference; only `im_name_batch` is new.
Axes: H rows, W columns.
"""

import contextlib
import functools
import glob
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from util import datasets, im_processing, refer, text_processing
from util.errors import UserError
from util.files import whole_file

RECORD = "build.json"  # beside the samples: what they were built from


def sample_file(folder: str, prefix: str, number: int) -> str:
    """Return the path of a sample."""
    return os.path.join(folder, f"{prefix}_{number}.npz")


def write_sample(
    path: str,
    words: List[int],
    picture: np.ndarray,
    mask: np.ndarray,
    sentence: str,
    picture_name: str,
) -> None:
    """Write one sample.

    Args:
      path: the file to make or replace.
      words: 20 ids, padding 0 in front.
      picture: uint8 [H, W, 3], RGB.
      mask: bool [H, W], True on the object.
      sentence: the text that `words` come from.
      picture_name: the same for all samples that show the same picture.

    Raises:
      UserError: the file cannot be written.
    """
    with _writing(path) as file:
        np.savez(
            file,
            text_batch=np.array(words, np.int32),
            im_batch=picture,
            mask_batch=mask,
            sent_batch=[sentence],
            im_name_batch=[picture_name],
        )


def read_sample(path: str) -> Dict[str, Any]:
    """Read one sample, made by us or by the reference.

    Args:
      path: the file.

    Returns:
      text_batch: int32 [20], ids, padding 0 in front.
      im_batch: uint8 [H, W, 3], RGB.
      mask_batch: bool [H, W], True on the object.
      sent_batch: [sentence].
      im_name_batch: [name of the picture]; [""] in files of the reference.

    Raises:
      UserError: the file is missing or damaged; names it.
    """
    try:
        # numpy before 1.20 complains on stderr about what is no zip file.
        if not _is_whole(path):
            raise ValueError("it is missing, or not whole")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            sample = {key: arrays[key] for key in arrays.files}
        sample.setdefault("im_name_batch", np.array([""]))
        return _checked(sample)
    except Exception as error:  # a damaged file makes numpy raise almost anything
        raise UserError(
            f"cannot read the sample {path} ({error}): delete it and build it again"
        ) from error


def _checked(sample):
    """Return the arrays as `read_sample` promises them; ValueError if they are not."""
    size = sample["im_batch"].shape[:2]
    forms = {
        "text_batch": (np.typecodes["AllInteger"], (text_processing.MAX_WORDS,)),
        "im_batch": (np.dtype(np.uint8).char, size + (3,)),
        "mask_batch": (np.dtype(bool).char, size),
        "sent_batch": ("SU", (1,)),
        "im_name_batch": ("SU", (1,)),
    }
    for key, (types, shape) in forms.items():
        array = sample[key]
        if array.dtype.char not in types or array.shape != shape:
            raise ValueError(f"{key} is {array.dtype} {array.shape}")
    checked = {key: sample[key] for key in forms}
    checked["text_batch"] = checked["text_batch"].astype(np.int32)
    for key in ("sent_batch", "im_name_batch"):
        checked[key] = refer.as_text(checked[key].tolist())
    return checked


class _Task(NamedTuple):
    """A referent, the number of its first sample and the ids of its sentences."""

    referent: refer.Referent
    first: int
    words: List[List[int]]

    def files(self, folder, prefix):
        numbers = range(self.first, self.first + len(self.words))
        return [sample_file(folder, prefix, number) for number in numbers]


def build(
    dataset: str,
    split: str,
    root: str = "data",
    batches: Optional[str] = None,
    size: Optional[int] = None,
    jobs: int = 1,
) -> str:
    """Write the samples of a split, one for each sentence in file order.

    Goes on where an interrupted build stopped. Training splits are stored at the
    network's input size, others at the size of their pictures.

    Args:
      dataset: a key of `datasets.DATASETS`.
      split: one of its splits.
      root: the data folder.
      batches: where the samples go in place of `root`, or None.
      size: height and width of training samples, in pixels; None: the data set's.
      jobs: number of processes.

    Returns:
      The folder of the samples.

    Raises:
      UserError: bad annotations, pictures or vocabulary; or the folder holds
        samples that were built from something else.
    """
    if dataset == "shapes" and not os.path.isfile(datasets.refs_file(dataset, root)):
        from util import shapes  # not needed for any other data set

        shapes.draw(root)
    referents = refer.referents(dataset, split, root)
    vocabulary = datasets.vocabulary_file(dataset, root)
    tasks = _plan(referents, text_processing.load_vocab_dict_from_file(vocabulary))
    num_samples = sum(len(task.words) for task in tasks)
    if not num_samples:
        raise UserError(f"the annotations of {dataset} have no sentences for {split}")
    size = (size or datasets.DATASETS[dataset].input_size) if "train" in split else None
    settings = {
        "size": size,
        "vocabulary": _file_checksum(vocabulary),
        "annotations": _annotation_checksum(referents),
        "sentences": num_samples,
    }

    folder = datasets.batch_dir(dataset, split, root, batches)
    prefix = datasets.sample_prefix(dataset, split)
    _check_settings(folder, prefix, settings)
    pending = [t for t in tasks if not all(map(_is_whole, t.files(folder, prefix)))]
    if pending:
        refer.check_files([task.referent for task in pending])
        _write_record(folder, settings, complete=False)
        _build_pending(pending, num_samples, folder, prefix, size, jobs)
    _write_record(folder, settings, complete=True)
    done = "built" if pending else "already complete"
    print(f"{dataset} {split}: {done}, {num_samples} samples in {folder}")
    _warn_of_count(dataset, split, num_samples)
    return folder


def _warn_of_count(dataset, split, num_samples):
    expected = datasets.DATASETS[dataset].splits[split]
    if expected not in (None, num_samples):
        print(
            f"warning: {dataset} {split} has {num_samples} sentences, "
            f"not the {expected} of the published annotations",
            file=sys.stderr,
        )


def check_complete(folder: str, num_samples: int) -> None:
    """Refuse a folder whose build was interrupted or whose files were lost.

    Args:
      folder: where the samples lie; one made by the reference always passes.
      num_samples: how many there are.

    Raises:
      UserError: there should be more; says to go on building.
    """
    record = _read_record(folder)
    if record and not (record["complete"] and record["sentences"] == num_samples):
        raise UserError(
            f"{folder} has {num_samples} of {record['sentences']} samples, "
            "or its build was interrupted: run build_batches.py again to finish it"
        )


def _plan(referents, vocab_dict):
    """Return a task a referent, their samples numbered in file order from 0."""
    tasks, first = [], 0
    for referent in referents:
        try:
            words = [
                text_processing.preprocess_sentence(sentence, vocab_dict)
                for sentence in referent.sentences
            ]
        except UserError as error:
            raise UserError(f"{referent.name}: {error}") from error
        tasks.append(_Task(referent, first, words))
        first += len(words)
    return tasks


def _build_pending(tasks, num_samples, folder, prefix, size, jobs):
    """Run the tasks in this process or in several, with a progress bar."""
    for leftover in glob.glob(os.path.join(glob.escape(folder), "*.part")):
        os.remove(leftover)
    work = functools.partial(_build_samples, folder=folder, prefix=prefix, size=size)
    todo = sum(len(task.words) for task in tasks)
    bar = tqdm(
        total=num_samples, initial=num_samples - todo, desc=prefix, unit=" samples"
    )
    with bar, contextlib.closing(_run(work, tasks, min(jobs, len(tasks)))) as counts:
        for count in counts:
            bar.update(count)


def _run(work, tasks, jobs):
    """Yield work(task) of each task; closing it or an error ends the processes."""
    if jobs == 1:
        yield from map(work, tasks)
        return
    # A fork would copy the threads of whatever is loaded already.
    context = multiprocessing.get_context("spawn")
    try:
        with _one_interrupt() as allow, ProcessPoolExecutor(jobs, context) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            allow()
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died; free some memory or use fewer --jobs"
        ) from error


@contextlib.contextmanager
def _one_interrupt():
    """Ignore Ctrl-C until the function yielded is called, and then all but one.

    Processes that start before the call ignore it for good, and the end of the
    pool, which the one brings about, would hang if it were interrupted too.
    """

    def interrupt(*_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield functools.partial(signal.signal, signal.SIGINT, interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)


def _build_samples(task, folder, prefix, size):
    """Write the samples of one referent and return their number."""
    picture, mask = refer.load(task.referent)
    if size:
        picture = im_processing.fit_picture(picture, size, size)
        mask = im_processing.fit_mask(mask, size, size)
    paths = task.files(folder, prefix)
    for path, words, sentence in zip(paths, task.words, task.referent.sentences):
        if not _is_whole(path):
            name = task.referent.picture_name
            write_sample(path, words, picture, mask, sentence, name)
    return len(paths)


def _is_whole(path):
    # The table of contents of a zip file comes last.
    return zipfile.is_zipfile(path)


def _check_settings(folder, prefix, settings):
    """Refuse a folder with samples that these settings would not give."""
    record = _read_record(folder)
    if record is None:
        if datasets.sample_numbers(folder, prefix):
            raise UserError(
                f"{folder} holds samples of the reference: "
                "use them as they are, or move the folder away to build anew"
            )
        return
    others = [key for key, value in settings.items() if record.get(key) != value]
    if others:
        raise UserError(
            f"{folder} was built with other {', '.join(others)}: "
            "delete the folder to build anew"
        )


def _read_record(folder):
    """Return what `_write_record` wrote, None where there is nothing."""
    path = os.path.join(folder, RECORD)
    if not os.path.exists(path):
        return None
    try:
        record = refer.read_json(path)
    except UserError:
        record = None
    if not isinstance(record, dict) or not {"complete", "sentences"} <= set(record):
        raise UserError(f"{path} is damaged: delete the folder to build anew")
    return record


def _write_record(folder, settings, complete):
    with _writing(os.path.join(folder, RECORD)) as file:
        record = json.dumps(dict(settings, complete=complete), indent=2)
        file.write(record.encode("ascii"))


@contextlib.contextmanager
def _writing(path):
    """Open a `whole_file`; a full disk or a refused folder is a UserError."""
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _file_checksum(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _annotation_checksum(referents):
    """Return a checksum of what the annotations say, wherever they lie."""
    said = [[r.picture_name, r.sentences, r.segmentation] for r in referents]
    return hashlib.sha256(json.dumps(said).encode("ascii")).hexdigest()
