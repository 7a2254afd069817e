"""An object that sentences refer to, its image and its mask.

Annotations come from the internet, so nothing in them is trusted: what a library
would crash on is refused first.
"""

import os
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import scipy.io
from pycocotools import mask as coco_mask

from util.core import files
from util.core.errors import UserError
from util.data.im_processing import read_image, read_mask


class Referent(NamedTuple):
    """One object that sentences refer to.

    Attributes:
      name: what to call it in an error.
      image: path of the image.
      sentences: the texts, in file order.
      mask_file: path of ReferIt's mask; None elsewhere.
      segmentation: COCO's mask, see `decode_segmentation`; None elsewhere.
      size: (height, width) of the image by COCO; None elsewhere.
      mask_image: path of a mask that is an image, in custom data sets; else None.
      image_id: what `image_name` is in custom data sets; else None.
    """

    name: str
    image: str
    sentences: List[str]
    mask_file: Optional[str] = None
    segmentation: Any = None
    size: Optional[Tuple[int, int]] = None
    mask_image: Optional[str] = None
    image_id: Optional[str] = None

    @property
    def image_name(self) -> str:
        """The image's own name: `image_id`, or that of its file without the ending."""
        return self.image_id or os.path.splitext(os.path.basename(self.image))[0]


def load(referents: Sequence[Referent]) -> Tuple[np.ndarray, List[np.ndarray]]:
    """Read an image and the masks of referents in it.

    Args:
      referents: one or more, all in the same image.

    Returns:
      uint8 [H, W, 3], RGB, and for each referent bool [H, W], True on the object.

    Raises:
      UserError: a file is missing or damaged, or image and mask differ in size.
    """
    image = read_image(referents[0].image)
    return image, [_load_mask(referent, image.shape[:2]) for referent in referents]


def _load_mask(referent, size):
    # A mask of a size that an image has really is safe to allocate.
    if referent.size not in (None, size):
        _refuse_sizes(referent, referent.size, size)
    if referent.mask_file:
        mask = _read_mat(referent.mask_file)
    elif referent.mask_image:
        mask = read_mask(referent.mask_image)
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
        f"{referent.image} has {'x'.join(map(str, size))} (height x width)"
    )


def check_files(chosen: List[Referent]) -> None:
    """Refuse referents whose image or mask file is missing, before long work.

    Raises:
      UserError: names the first missing file and its referent.
    """
    owners = {}
    for referent in chosen:
        for path in (referent.image, referent.mask_file, referent.mask_image):
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
      height: H of the image, in pixels.
      width: W of the image, in pixels.

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
            raise ValueError("a polygon reaches far outside the image")
    drawn = coco_mask.decode(coco_mask.frPyObjects(polygons, height, width))
    return drawn.any(axis=2)


def _decode_run_lengths(run_lengths, height, width):
    if list(run_lengths["size"]) != [height, width]:
        raise ValueError(f"its size is {run_lengths['size']}, not {[height, width]}")
    counts = run_lengths["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise ValueError("its run lengths do not fill the image")
        packed = coco_mask.frPyObjects(run_lengths, height, width)
    else:
        packed = {"size": [height, width], "counts": counts.encode("ascii")}
    mask = coco_mask.decode(packed)
    # Where compressed runs end early, pycocotools leaves the rest unset.
    if mask.sum() != coco_mask.area(packed):
        raise ValueError("its run lengths do not fill the image")
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
