"""Prediction: your images and sentences about them in, masks and what they say out."""

import contextlib
import csv
import itertools
import json
import os
import re
import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from tqdm import tqdm

from util.core import files
from util.core.errors import UserError
from util.core.files import MAX_TEXT, parse_json, require_file, writing
from util.data import im_processing, text_processing
from util.graph import checkpoint
from util.inference import coco, visualize
from util.inference.prediction import Prediction, describe, run_lengths
from util.inference.predictor import Predictor, vocabulary_of

RECORD = "predictions.jsonl"
DRAWN = re.compile(r"[0-9]{6,}_(mask|overlay|rounds)\.png")
GROUP = 24  # sentences of an image that are held at once


class Query(NamedTuple):
    """A question: path of an image, and a sentence about it."""

    image: str
    sentence: str


def run(args) -> int:
    """Segment what the command line asks for, and write it below --output.

    Args:
      args: options of `trainval_model.py -m predict`.

    Returns:
      The exit code: 1 where an image or a sentence could not be segmented.

    Raises:
      UserError: nothing can be segmented: no snapshot, a wrong list of queries, an
        --output that is not empty.
    """
    if args.queries:
        queries = read_queries(args.queries)
    else:
        queries = combine(args.image, args.text)
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    identities = None
    if args.coco or args.coco_images:
        images = [query.image for query in queries]
        identities = coco.image_ids(images, args.coco_images)
    with _new_folder(args.output):
        predictor = Predictor(
            snapshot,
            args.vocabulary or vocabulary_of(snapshot, args.data),
            args.precision,
            model=args.model,
            crf_backend=args.crf_backend,
        )
        with predictor:
            rows = predict(predictor, queries, args.output, args.dense_crf, identities)
    rule = text_processing.rule_of(predictor.vocabulary)
    read = [row["sentence"] for row in rows if "error" not in row]
    text_processing.warn_of_foreign_words(read, rule)
    num_failed = sum("error" in row for row in rows)
    print(
        f"{len(rows) - num_failed} of {len(rows)} sentences segmented: "
        f"{os.path.join(args.output, RECORD)}"
    )
    if identities:
        print(f"ids in {coco.RESULTS}: {identities.source}")
        print(_about_data_set(args.output, rows, identities))
    return 1 if num_failed else 0


def _about_data_set(folder, rows, ids):
    """Return a line about the file for label tools."""
    path = os.path.join(folder, coco.DATA_SET)
    line = f"for label tools: {path}, images {ids.place}"
    empty = sum(row.get("area") == 0 for row in rows)
    return f"{line}; without {empty} sentences that found no pixel" if empty else line


@contextlib.contextmanager
def _new_folder(path):
    """Be the only one that writes in a folder, empty save for what a kill left there.

    Raises:
      UserError: there is more in it, or another process writes there.
    """

    def require_empty():
        if set(os.listdir(path)) - {files.LOCK}:
            raise UserError(
                f"{path} is there already and not empty: choose another --output"
            )

    if os.path.isdir(path) and not os.path.exists(os.path.join(path, files.LOCK)):
        require_empty()
    with files.locked(path) as is_left:
        names = os.listdir(path)
        if is_left and RECORD not in names:  # what is ours came after the lock
            for name in filter(DRAWN.fullmatch, names):
                os.remove(os.path.join(path, name))
            files.remove_parts(path)
        require_empty()
        yield


# --- Queries


def combine(images: Sequence[str], sentences: Sequence[str]) -> List[Query]:
    """Ask each sentence about each image.

    Raises:
      UserError: a sentence has no words.
    """
    for sentence in sentences:
        # What has none for this rule has none for any other.
        if not text_processing.tokenize(sentence):
            raise UserError(f"--text {sentence!r} has no words")
    return [Query(*query) for query in itertools.product(images, sentences)]


def read_queries(path: str) -> List[Query]:
    """Read images and sentences from a file.

    Args:
      path: a .csv with a header, or a .jsonl; with "image" and "sentence" in each
        row. Paths of images begin at the file's folder.

    Raises:
      UserError: the file is missing, damaged, empty or of another form.
    """
    read = {".csv": csv.DictReader, ".jsonl": _json_lines}.get(
        os.path.splitext(path)[1].lower()
    )
    if read is None:
        raise UserError(f"--queries {path}: must end in .csv or .jsonl")
    folder, queries = os.path.dirname(path), []
    try:
        with open(
            require_file(path, MAX_TEXT), encoding="utf-8-sig", newline=""
        ) as file:
            for number, row in enumerate(read(file), 1):
                image = row.get("image", row.get("picture"))  # its older name
                texts = [image, row.get("sentence")]
                if not all(isinstance(text, str) and text for text in texts):
                    raise UserError(
                        f"{path}: entry {number} needs texts for image and sentence"
                    )
                queries.append(Query(os.path.join(folder, texts[0]), texts[1]))
    except (ValueError, AttributeError, csv.Error, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not queries:
        raise UserError(f"{path} has no entries")
    return queries


def _json_lines(file):
    return (parse_json(line) for line in file if line.strip())


# --- Answers


def predict(
    predictor: Predictor,
    queries: Sequence[Query],
    folder: str,
    with_dense_crf: bool = False,
    coco_ids: Optional[coco.Ids] = None,
) -> List[Dict[str, Any]]:
    """Segment sentences and write what was found.

    Args:
      predictor: the network.
      queries: what to segment; neighbours about one image are one run.
      folder: gets for the query of number N `N_mask.png`, 255 on the object, and
        `N_overlay.png`, both of the image's size, where the model has rounds
        `N_rounds.png`, and all rows as RECORD, also
        after Ctrl-C.
      with_dense_crf: refine the masks.
      coco_ids: also write COCO's files, `coco.RESULTS` and `coco.DATA_SET`, with these
        ids of the images.

    Returns:
      A row a query, see `prediction.describe`; with "image", "seconds", "mask" and
      "overlay" (names of files), where the model has rounds also "rounds"; or with
      "error" alone.
    """
    rows, results = [], []
    try:
        with tqdm(total=len(queries), desc="segmenting", unit="sentence") as bar:
            for path, sentences in by_image(queries):
                for row, found in _answer(predictor, path, sentences, with_dense_crf):
                    if found:
                        row.update(_draw(folder, len(rows), *found))
                    if found and coco_ids:
                        results.append(_coco_result(coco_ids.of[path], row, found[1]))
                    rows.append(row)
                    bar.update()
    finally:
        if rows:
            _write_rows(folder, RECORD, map(json.dumps, rows))
        if rows and coco_ids:
            _write_rows(folder, coco.RESULTS, [json.dumps(results)])
            made = coco.data_set(results, coco_ids)
            _write_rows(folder, coco.DATA_SET, [json.dumps(made)])
    return rows


def by_image(queries: Sequence[Query]) -> Iterator[Tuple[str, List[str]]]:
    """Yield an image and sentences about it, at most GROUP at once, in order."""
    for path, group in itertools.groupby(queries, lambda query: query.image):
        sentences = [query.sentence for query in group]
        for first in range(0, len(sentences), GROUP):
            yield path, sentences[first : first + GROUP]


def _answer(predictor, path, sentences, with_dense_crf):
    """Yield (row, (image, Prediction)) of each sentence; (row, None) of an error."""
    begin, errors = time.time(), {}
    for sentence in sentences:
        try:
            predictor.ids(sentence)
        except UserError as error:
            errors[sentence] = str(error)
    try:
        image = im_processing.read_image(path)
        predictor.set_image(image)
        good = [sentence for sentence in sentences if sentence not in errors]
        found = iter(predictor.segment(good, with_dense_crf))
    except UserError as error:
        errors = dict.fromkeys(sentences, str(error))
    for error in dict.fromkeys(errors.values()):
        tqdm.write(f"error: {' '.join(error.split())}", file=sys.stderr)
    seconds = (time.time() - begin) / len(sentences)
    for sentence in sentences:
        row = {"image": path, "sentence": sentence}
        if sentence in errors:
            yield dict(row, error=errors[sentence]), None
        else:
            prediction = next(found)
            row.update(describe(prediction), seconds=seconds)
            yield row, (image, prediction)


def _draw(folder, number, image, prediction: Prediction) -> Dict[str, str]:
    """Write mask and overlay of a prediction; return their names."""
    mask = prediction.mask
    images = {
        "mask": mask.astype("uint8") * 255,
        "overlay": visualize.overlay(image, mask),
    }
    attention = [(word.text, word.attention) for word in prediction.words]
    if attention[0][1]:
        levels = prediction.levels
        images["rounds"] = visualize.rounds_image(image, levels, attention)
    names = {kind: f"{number:06d}_{kind}.png" for kind in images}
    for kind, name in names.items():
        visualize.save_png(os.path.join(folder, name), images[kind])
    return names


def _coco_result(identity, row, prediction):
    return {
        "image_id": identity,
        "category_id": coco.CATEGORY,
        "segmentation": run_lengths(prediction.mask),
        "bbox": row["box"] or [0, 0, 0, 0],
        "score": row["mean_probability"] or 0.0,
        "file_name": os.path.basename(row["image"]),
        "sentence": row["sentence"],
    }


def _write_rows(folder, name, lines):
    with writing(os.path.join(folder, name)) as file:
        file.writelines((line + "\n").encode("ascii") for line in lines)
