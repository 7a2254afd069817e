"""The annotations of RefCOCO, RefCOCO+, RefCOCOg, `shapes` and ReferIt.

Those of other data sets are read by `util.own_data`.
All of them come from the internet, so nothing in them is trusted: a pickle can
yield plain data only, and what a library would crash on is refused first.
"""

import os
import pickle
import re
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import scipy.io
from pycocotools import mask as coco_mask

from util import datasets
from util.datasets import read_json
from util.errors import UserError
from util.im_processing import read_mask, read_picture

REF_FIELDS = {"ann_id": int, "image_id": int, "split": str, "sentences": list}
COCO_FIELDS = {
    "images": {"id": (int, str), "height": int, "width": int},
    "annotations": {"id": (int, str)},
}


class Referent(NamedTuple):
    """One object that sentences refer to.

    Attributes:
      name: what to call it in an error.
      picture: path of the picture.
      sentences: the texts, in file order.
      mask_file: path of ReferIt's mask; None elsewhere.
      segmentation: COCO's mask, see `decode_segmentation`; None elsewhere.
      size: (height, width) of the picture by COCO; None elsewhere.
      mask_picture: path of a mask that is a picture, in own data sets; else None.
      picture_id: what `picture_name` is in own data sets; else None.
    """

    name: str
    picture: str
    sentences: List[str]
    mask_file: Optional[str] = None
    segmentation: Any = None
    size: Optional[Tuple[int, int]] = None
    mask_picture: Optional[str] = None
    picture_id: Optional[str] = None

    @property
    def picture_name(self) -> str:
        """What no other picture is called: its file, where not told, without ending."""
        return self.picture_id or os.path.splitext(os.path.basename(self.picture))[0]


def referents(dataset: str, split: str, root: str = "data") -> List[Referent]:
    """Read the annotations of a split.

    Args:
      dataset: its name, see `datasets.get`.
      split: one of its splits.
      root: the data folder.

    Returns:
      The split's referents in file order.

    Raises:
      UserError: unknown split; an annotation file is missing or damaged.
    """
    datasets.check_split(dataset, split, root)
    about = datasets.get(dataset, root)
    if about.annotations:
        from util import own_data  # which needs this module

        return own_data.referents(about, split)
    if about.refs is None:
        return _referit_referents(split, root)
    return _coco_referents(dataset, split, root)


def load(referents: Sequence[Referent]) -> Tuple[np.ndarray, List[np.ndarray]]:
    """Read a picture and the masks of referents in it.

    Args:
      referents: one or more, all in the same picture.

    Returns:
      uint8 [H, W, 3], RGB, and for each referent bool [H, W], True on the object.

    Raises:
      UserError: a file is missing or damaged, or picture and mask differ in size.
    """
    picture = read_picture(referents[0].picture)
    return picture, [_load_mask(referent, picture.shape[:2]) for referent in referents]


def _load_mask(referent, size):
    # A mask of a size that a picture has really is safe to allocate.
    if referent.size not in (None, size):
        _refuse_sizes(referent, referent.size, size)
    if referent.mask_file:
        mask = _read_mat(referent.mask_file)
    elif referent.mask_picture:
        mask = read_mask(referent.mask_picture)
    else:
        try:
            mask = decode_segmentation(referent.segmentation, *size)
        except UserError as error:
            raise UserError(f"{referent.name}: {error}") from error
    if mask.shape != size:
        _refuse_sizes(referent, mask.shape, size)
    return mask


def _refuse_sizes(referent, annotated, size):
    raise UserError(
        f"{referent.name}: annotated at {'x'.join(map(str, annotated))} pixels, but "
        f"{referent.picture} has {'x'.join(map(str, size))} (height x width)"
    )


def check_files(chosen: List[Referent]) -> None:
    """Refuse referents whose picture or mask file is missing, before long work.

    Raises:
      UserError: names the first missing file and its referent.
    """
    owners = {}
    for referent in chosen:
        for path in (referent.picture, referent.mask_file, referent.mask_picture):
            if path:
                owners.setdefault(path, referent.name)
    for path in sorted(owners):
        try:
            datasets.require_file(path)
        except UserError as error:
            raise UserError(f"{owners[path]}: {error}") from error


def _coco_referents(dataset, split, root):
    path = datasets.refs_file(dataset, root)
    refs = [ref for ref in load_refs(path) if ref["split"] == split]
    return [
        Referent(
            name,
            datasets.picture_file(dataset, image["id"], root),
            [sentence["sent"] for sentence in ref["sentences"]],
            segmentation=annotation.get("segmentation"),
            size=(image["height"], image["width"]),
        )
        for name, ref, image, annotation in with_instances(path, refs)
    ]


def with_instances(
    path: str, refs: List[Dict]
) -> Iterator[Tuple[str, Dict, Dict, Dict]]:
    """Look up refs in the instances.json beside their file.

    Args:
      path: of the refs(x).p.
      refs: of `load_refs`.

    Yields:
      (what to call it in an error, the ref, its image's entry, its annotation).

    Raises:
      UserError: instances.json is missing or damaged, or lacks an entry.
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
        yield name, ref, images[image], annotations[annotation]


def coco_entries(path: str, content: Any) -> Tuple[Dict[Any, Dict], Dict[Any, Dict]]:
    """Look up the images and annotations of a COCO file by their ids.

    Args:
      path: of the file.
      content: what `read_json` gave.

    Returns:
      {id: image} and {id: annotation}; both have COCO_FIELDS.

    Raises:
      UserError: it is no COCO file; names the first bad entry.
    """
    by_id = []
    for key, fields in COCO_FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path} is no COCO file: it has no list {key!r}")
        for number, entry in enumerate(entries):
            if not _has(entry, fields):
                raise UserError(
                    f"{path} is no COCO file: {key}, entry {number}: expected an "
                    f"object with {', '.join(fields)}"
                )
        by_id.append({entry["id"]: entry for entry in entries})
    return tuple(by_id)


def _has(entry, fields):
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), kind) for key, kind in fields.items()
    )


class _PlainUnpickler(pickle.Unpickler):
    """Makes lists, dicts, texts and numbers; refuses all that could run code."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for the code {module}.{name}")

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it asks for objects outside the file")


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
    with open(datasets.require_file(path), "rb") as file:
        try:
            refs = as_text(_PlainUnpickler(file, encoding="bytes").load())
        except Exception as error:  # a damaged pickle raises almost anything
            raise UserError(f"{path} is no pickle of plain data: {error}") from error
    if not isinstance(refs, list):
        raise UserError(f"{path} holds no list of refs")
    for number, ref in enumerate(refs):
        if not _is_ref(ref):
            raise UserError(
                f"{path}: entry {number} is no ref with {', '.join(REF_FIELDS)}"
            )
    return refs


def as_text(value: Any) -> Any:
    """Decode the byte strings of Python 2 in plain data, lists and dicts included.

    They are UTF-8, or else Latin-1.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, dict):
        return {as_text(key): as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    return value


def _is_ref(ref):
    return _has(ref, REF_FIELDS) and all(
        _has(sentence, {"sent": str}) for sentence in ref["sentences"]
    )


def decode_segmentation(
    segmentation: Union[list, dict], height: int, width: int
) -> np.ndarray:
    """Draw a mask from COCO's segmentation of it.

    Args:
      segmentation: polygons [[x, y, x, y, ...], ...], in pixels, which are
        united; or {"size": [H, W], "counts": run lengths}, the counts as a list
        or in COCO's compressed text.
      height: H of the picture, in pixels.
      width: W of the picture, in pixels.

    Returns:
      bool [H, W], True on the object.

    Raises:
      UserError: the mask is missing, damaged or of another size.
    """
    if not segmentation:
        raise UserError("the mask is missing")
    try:
        if isinstance(segmentation, dict):
            return _decode_run_lengths(segmentation, height, width)
        return _draw_polygons(segmentation, height, width)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the mask is damaged: {error!r}") from error


def _draw_polygons(polygons, height, width):
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or points.size < 6 or points.size % 2:
            raise ValueError("a polygon needs 3 or more points")
        # Far corners and NaN make pycocotools crash or hang.
        limit = 10 * max(height, width)
        if not np.isfinite(points).all() or np.abs(points).max() > limit:
            raise ValueError("a polygon reaches far outside the picture")
    drawn = coco_mask.decode(coco_mask.frPyObjects(polygons, height, width))
    return drawn.any(axis=2)


def _decode_run_lengths(run_lengths, height, width):
    if list(run_lengths["size"]) != [height, width]:
        raise ValueError(f"its size is {run_lengths['size']}, not {[height, width]}")
    counts = run_lengths["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise ValueError("its run lengths do not fill the picture")
        packed = coco_mask.frPyObjects(run_lengths, height, width)
    else:
        packed = {"size": [height, width], "counts": counts.encode("ascii")}
    mask = coco_mask.decode(packed)
    # Where compressed runs end early, pycocotools leaves the rest unset.
    if mask.sum() != coco_mask.area(packed):
        raise ValueError("its run lengths do not fill the picture")
    return mask.astype(bool)


def _referit_referents(split, root):
    path = datasets.query_file(split, root)
    return [
        Referent(
            f"{path}: referent {name}",
            datasets.picture_file("referit", name.split("_")[0], root),
            sentences,
            mask_file=datasets.mask_file(name, root),
        )
        for name, sentences in load_queries(path).items()
    ]


def load_queries(path: str) -> Dict[str, List[str]]:
    """Read the sentences of a ReferIt query file.

    Args:
      path: the file.

    Returns:
      "<image>_<object>", two numbers -> texts, in file order.

    Raises:
      UserError: the file is missing, damaged or of another form.
    """
    queries = read_json(path)
    if not isinstance(queries, dict):
        raise UserError(f"{path} holds no queries")
    for name, sentences in queries.items():
        # The names become paths of files.
        is_name = re.fullmatch("[0-9]+_[0-9]+", name)
        is_list = isinstance(sentences, list)
        if not is_name or not is_list or not all(isinstance(s, str) for s in sentences):
            raise UserError(
                f"{path}: {name!r} is no <image>_<object> with a list of sentences"
            )
    return queries


def _read_mat(path):
    """Return bool [H, W] of a ReferIt mask file."""
    datasets.require_file(path)
    try:
        contents = scipy.io.loadmat(path, variable_names=["segimg_t"])
        mask = np.asarray(contents["segimg_t"] == 0, bool)
    except Exception as error:  # a damaged file makes scipy raise almost anything
        raise UserError(f"the mask {path} is damaged: {error!r}") from error
    if mask.ndim != 2:
        raise UserError(f"the mask {path} has {mask.ndim} axes, not 2")
    return mask
