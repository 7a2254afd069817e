"""An object that sentences refer to, its image and its mask.

Annotations come from the internet, so nothing in them is trusted: what a library
would crash on is refused first.
"""

import os
import struct
import zlib
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from pycocotools import mask as coco_mask

from util.core import files
from util.core.errors import Mistakes, UserError, gathering
from util.data import doubts, frames, mat_files
from util.data.im_processing import read_mask, read_turned

MAX_OUTLINE = 10**6  # pixels, of a polygon
PARTS_AT_ONCE = 100  # of a mask
# What wrong numbers and types in a segmentation raise.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


class Referent(NamedTuple):
    """One object that sentences refer to.

    Attributes:
      name: what to call it in an error.
      image: path of the image.
      sentences: the texts, in file order.
      mask_file: path of ReferIt's mask; None elsewhere.
      segmentations: COCO's masks of what is meant, which are united, see
        `decode_segmentation`; [] where nothing is meant; None elsewhere.
      size: (height, width) of the image by COCO; None elsewhere.
      mask_image: path of a mask that is an image, in custom data sets; else None.
      image_id: what `image_name` is; None: it is the name of its file.
    """

    name: str
    image: str
    sentences: List[str]
    mask_file: Optional[str] = None
    segmentations: Optional[List[Any]] = None
    size: Optional[Tuple[int, int]] = None
    mask_image: Optional[str] = None
    image_id: Optional[str] = None

    @property
    def image_name(self) -> str:
        """The image's own name: `image_id`, or that of its file without the ending."""
        return self.image_id or os.path.splitext(os.path.basename(self.image))[0]

    @property
    def short_name(self) -> str:
        """What to call it where the file is known: `annotation 7`."""
        return self.name.rpartition(": ")[2]


class Loaded(NamedTuple):
    """An image and the masks in it.

    Attributes:
      image: uint8 [H, W, 3], RGB, upright.
      masks: of each referent bool [H, W], True on the object.
      found: what may be wrong with them, see `doubts`.
    """

    image: np.ndarray
    masks: List[np.ndarray]
    found: List[Tuple[str, str]]


def load(referents: Sequence[Referent], annotated: Optional[str] = None) -> Loaded:
    """Read an image and the masks of referents in it.

    Args:
      referents: one or more, all in the same image.
      annotated: the frame of annotations whose size does not tell it, `frames.STORED`
        or UPRIGHT; None: UPRIGHT, and it is a doubt.

    Raises:
      UserError: a file is missing or damaged, or image and mask differ in size.
    """
    image, orientation = read_turned(referents[0].image)
    masks, found = [], []
    for referent in referents:
        mask, about = _load_mask(referent, image.shape[:2], orientation, annotated)
        masks.append(mask)
        found += about
    return Loaded(image, masks, found)


def examine(
    referents: Sequence[Referent], annotated: Optional[str] = None
) -> List[Optional[str]]:
    """Read an image and the masks of referents in it, and say what is wrong.

    Args:
      referents, annotated: as for `load`.

    Returns:
      For each referent the error that it ends in; None: there is none.
    """
    try:
        image, orientation = read_turned(referents[0].image)
    except UserError as error:
        return [str(error)] * len(referents)
    errors = []
    for referent in referents:
        try:
            _load_mask(referent, image.shape[:2], orientation, annotated)
            errors.append(None)
        except UserError as error:
            errors.append(str(error))
    return errors


def _load_mask(referent, size, orientation, annotated):
    """Return the mask of a referent, upright, and what may be wrong with it."""
    stored, said = frames.stored_size(size, orientation), referent.size
    # A mask of a size that an image has really is safe to allocate.
    if said not in (None, size, stored):
        _refuse_sizes(referent, said, size)
    mask, own = _read_mask_file(referent, {size, stored})
    if mask is not None:
        said = mask.shape
    elif said is None:
        said = _run_length_size(referent.segmentations)
    # A mask with an orientation of its own was turned with it.
    frame = frames.told(said, size, orientation if own == 1 else 1)
    found = _frame_found(referent, frame, orientation, annotated)
    frame = frame or annotated or frames.UPRIGHT
    drawn_size = stored if frame == frames.STORED else size
    if mask is None:
        mask = _decode(referent, drawn_size)
    if mask.shape != drawn_size:
        _refuse_sizes(referent, mask.shape, size)
    found += [(kind, referent.short_name) for kind in _kinds(referent, mask)]
    return frames.turn(mask, orientation if frame == frames.STORED else 1), found


def _read_mask_file(referent, sizes):
    """Return the mask of a referent and its orientation; None, 1: it is drawn."""
    if referent.mask_file:
        return _read_mat(referent, sizes), 1
    if referent.mask_image:
        return read_mask(referent.mask_image)
    return None, 1


def _decode(referent, size):
    mask = np.zeros(size, bool)
    for segmentation in referent.segmentations:
        try:
            mask |= decode_segmentation(segmentation, *size)
        except UserError as error:
            raise UserError(f"{referent.name}: {error}") from error
    return mask


def _run_length_size(segmentations):
    """Return the size that run lengths name; None: they name none."""
    for part in _parts(segmentations):
        if isinstance(part, dict) and isinstance(part.get("size"), list):
            return tuple(part["size"])
    return None


def _parts(segmentations):
    """Yield the parts of masks: polygons, run lengths, and what is neither."""
    for segmentation in segmentations or ():
        if isinstance(segmentation, list):
            yield from segmentation
        else:
            yield segmentation


def _frame_found(referent, frame, orientation, annotated):
    """Return what is said of the frame of an image that is stored turned."""
    if orientation == 1 or (frame is None and annotated):
        return []
    kinds = {frames.STORED: doubts.AS_STORED, frames.UPRIGHT: doubts.AS_UPRIGHT}
    return [(kinds.get(frame, doubts.UNSURE), referent.image_name)]


def _kinds(referent, mask):
    """Yield the doubts about a mask, as it was annotated."""
    if referent.segmentations == []:
        return
    if not mask.any():
        yield doubts.NO_PIXEL
        return
    if mask.all():
        yield doubts.FULL
    if _is_outside(referent.segmentations, *mask.shape):
        yield doubts.OUTSIDE


def _is_outside(segmentations, height, width):
    """Say whether a polygon of a mask reaches far outside the image."""
    for polygon in _parts(segmentations):
        if isinstance(polygon, list) and len(polygon) >= 6:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
            beyond = np.maximum(-points, points - [width, height])
            if beyond.max() > doubts.MARGIN:
                return True
    return False


def _refuse_sizes(referent, annotated, size):
    raise UserError(
        f"{referent.name}: annotated at {'x'.join(map(str, annotated))} pixels, but "
        f"{referent.image} has {'x'.join(map(str, size))} (height x width)"
    )


def check_files(
    chosen: List[Referent], mistakes: Optional[Mistakes] = None
) -> List[Referent]:
    """Find referents whose image or mask file is missing, before long work.

    Args:
      chosen: the referents.
      mistakes: takes an error for each of those; None: they are refused, all at once.

    Returns:
      The others.

    Raises:
      UserError: files are missing, and nothing gathers mistakes.
    """
    there, sound = {}, []
    with gathering(mistakes) as gathered:
        for referent in chosen:
            paths = (referent.image, referent.mask_file, referent.mask_image)
            gone = [path for path in paths if path and not _is_there(there, path)]
            for path in gone[:1]:
                gathered.add(f"{referent.name}: {files.missing(path)}")
            if not gone:
                sound.append(referent)
    return sound


def _is_there(known, path):
    if path not in known:
        known[path] = os.path.isfile(path)
    return known[path]


def decode_segmentation(
    segmentation: Union[list, dict], height: int, width: int
) -> np.ndarray:
    """Draw a mask from COCO's segmentation of it.

    Args:
      segmentation: a list of parts, which are united: polygons [x, y, x, y, ...], in
        pixels, and {"size": [H, W], "counts": run lengths}, the counts as a list or in
        COCO's compressed text; or one of the latter. Polygons of fewer than three
        points are left out where there is another part.
      height: H of the image, in pixels.
      width: W of the image, in pixels.

    Returns:
      bool [H, W], True on the object.

    Raises:
      UserError: the mask is missing, damaged, of another size, or in parts of the
        image's size, 0 to 1.
    """
    if not segmentation:
        raise UserError(
            'the mask is missing ("no_target": true says that nothing is meant)'
        )
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    try:
        _refuse_relative(parts, height, width)
        packed = _unite(_pack(part, height, width) for part in parts)
        if not packed["counts"]:
            raise ValueError("a polygon needs 3 or more points")
        mask = coco_mask.decode(packed)
    except UNREADABLE as error:
        raise UserError(f"the mask is damaged: {error!r}") from error
    return mask.astype(bool)


def _unite(parts):
    """Return the union of parts as run lengths; however many, few are held at once."""
    united = []
    for part in filter(None, parts):
        united.append(part)
        if len(united) == PARTS_AT_ONCE:
            united = [coco_mask.merge(united)]
    return coco_mask.merge(united)


def _refuse_relative(parts, height, width):
    """Refuse polygons whose numbers are all from 0 to 1, parts of the image's size."""
    polygons = [part for part in parts if not isinstance(part, dict)]
    is_relative = all(0 <= number <= 1 for part in polygons for number in part)
    if any(polygons) and max(height, width) > 2 and is_relative:
        raise UserError(
            "the mask lies between 0 and 1, but polygons count pixels: multiply x by "
            "the width and y by the height"
        )


def _pack(part, height, width):
    """Return the run lengths of a part as pycocotools has them; None: it is no area."""
    if isinstance(part, dict):
        return _pack_run_lengths(part, height, width)
    points = np.asarray(part, np.float64)
    if points.ndim != 1 or points.size % 2:
        raise ValueError("a polygon needs 3 or more points, an x and a y each")
    if points.size < 6:
        return None
    # Far corners and NaN make pycocotools crash or hang.
    limit = 10 * max(height, width)
    if not np.isfinite(points).all() or np.abs(points).max() > limit:
        raise ValueError("a polygon reaches far outside the image")
    corners = points.reshape(-1, 2)
    steps = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
    if steps.sum() > MAX_OUTLINE:  # pycocotools holds five points for each pixel
        raise ValueError(f"a polygon's outline has more than {MAX_OUTLINE} pixels")
    (packed,) = coco_mask.frPyObjects([points.tolist()], height, width)
    return packed


def _pack_run_lengths(run_lengths, height, width):
    size, counts = list(run_lengths["size"]), run_lengths["counts"]
    if size != [height, width]:
        raise ValueError(f"its size is {size}, not {[height, width]}")
    if not isinstance(counts, list):
        counts = _unpack_counts(counts.encode("ascii"))
    if any(count != int(count) for count in counts):
        raise ValueError("its run lengths are no whole numbers")
    counts = [int(count) for count in counts]
    # Where runs end early, pycocotools crashes or leaves the rest unset.
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError("its run lengths do not fill the image")
    return coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)


def _unpack_counts(text: bytes) -> List[int]:
    """Return the run lengths of COCO's compressed text.

    A number has 5 bits a character, the lowest first; from the fourth on they are
    differences from the last but one.
    """
    counts, number, shift = [], 0, 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"its run lengths are no text of COCO's: {text[:20]!r}")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    if shift:
        raise ValueError("the text of its run lengths ends within a number")
    return counts


def _read_mat(referent, sizes):
    """Return bool [H, W] of ReferIt's mask of a referent, of one of the `sizes`."""
    path = referent.mask_file
    try:
        matrix = mat_files.find(path, "segimg_t")
        if len(matrix.shape) != 2:
            raise UserError(f"the mask {path} has {len(matrix.shape)} axes, not 2")
        if matrix.shape not in sizes:  # it may unpack to gigabytes
            _refuse_sizes(referent, matrix.shape, max(sizes))
        return matrix.values() == 0
    except (ValueError, zlib.error, struct.error) as error:
        raise UserError(f"the mask {path} is damaged: {error}") from error
