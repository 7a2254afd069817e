"""An object that sentences refer to, its picture and its mask.

Annotations come from the internet, so nothing in them is trusted: what a library
would crash on is refused first.
"""

import os
from typing import (
    Any,
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

from util.core import files
from util.core.errors import UserError
from util.data.im_processing import read_mask, read_picture


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
            files.require_file(path)
        except UserError as error:
            raise UserError(f"{owners[path]}: {error}") from error


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


def _read_mat(path):
    """Return bool [H, W] of a ReferIt mask file."""
    files.require_file(path)
    try:
        contents = scipy.io.loadmat(path, variable_names=["segimg_t"])
        mask = np.asarray(contents["segimg_t"] == 0, bool)
    except Exception as error:  # a damaged file makes scipy raise almost anything
        raise UserError(f"the mask {path} is damaged: {error!r}") from error
    if mask.ndim != 2:
        raise UserError(f"the mask {path} has {mask.ndim} axes, not 2")
    return mask
