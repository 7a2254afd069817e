"""What the samples of a folder were built from, in a file next to them."""

import contextlib
import hashlib
import json
import os
from typing import Any, Dict, Optional

from util.core import files
from util.core.errors import UserError

FILE = "build.json"


def read(folder: str) -> Optional[Dict[str, Any]]:
    """Return what `write` wrote, settings and `complete`; None: there is no file.

    Raises:
      UserError: the file is damaged.
    """
    path = os.path.join(folder, FILE)
    if not os.path.exists(path):
        return None
    try:
        info = files.read_json(path)
    except UserError:
        info = None
    if not (
        isinstance(info, dict)
        and {"complete", "sentences"} <= set(info)
        and isinstance(info.setdefault("doubts", {}), dict)
    ):
        raise UserError(f"{path} is damaged: delete the folder to build again")
    # There were no others at first.
    info.setdefault("layout", "npz")
    info.setdefault("frame", "upright")
    info.setdefault("skipped", 0)
    return info


def write(folder: str, settings: Dict[str, Any], complete: bool) -> None:
    """Write the build info of a folder.

    Args:
      folder: where the samples lie.
      settings: what they depend on, as JSON can hold it; `sentences`, their number,
        `layout`, "npz" or "compact", and `frame`, "stored" or "upright", among it;
        and `doubts`, what may be wrong with them, see `util.data.doubts`.
      complete: whether all of them are there.

    Raises:
      UserError: the file cannot be written.
    """
    info = dict(settings, complete=complete)
    files.write_json(os.path.join(folder, FILE), info)


def remove(folder: str) -> None:
    """Remove the build info of a folder."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, FILE))


def check_complete(folder: str, num_samples: int) -> None:
    """Refuse a folder whose build was interrupted or whose files were lost.

    Args:
      folder: where the samples lie; one made by the reference always passes.
      num_samples: how many there are.

    Raises:
      UserError: there should be more; says how to finish it.
    """
    info = read(folder)
    if info and not (info["complete"] and info["sentences"] == num_samples):
        raise UserError(
            f"{folder} has {num_samples} of {info['sentences']} samples, "
            "or its build was interrupted: run build_batches.py again to finish it"
        )


def check_settings(folder: str, settings: Dict[str, Any], has_samples: bool) -> None:
    """Refuse a folder with samples that these settings would not give.

    Args:
      folder: where samples are or will be.
      settings: what they depend on, see `write`; or the part of it that matters.
      has_samples: whether there are any.

    Raises:
      UserError: says which settings differ, and what to do.
    """
    info = read(folder)
    if info is None:
        if has_samples:
            raise UserError(
                f"{folder} holds samples of the reference: "
                "use them as they are, or move the folder away to build again"
            )
        return
    others = [key for key, value in settings.items() if info.get(key) != value]
    if others == ["layout"]:
        how = "with" if info["layout"] == "compact" else "without"
        raise UserError(
            f"{folder} was built {how} --compact: keep that layout, convert it with "
            "python -m util.convert, or delete the folder to build again"
        )
    if others == ["frame"]:
        raise UserError(
            f"{folder} was built with --annotated {info['frame']}: say that again, or "
            "delete the folder to build anew"
        )
    if "skipped" in others:
        raise UserError(
            f"{folder} was built without {info['skipped']} entries that were wrong, "
            f"now it would be without {settings['skipped']} (--skip-damaged): delete "
            "the folder to build again"
        )
    if others:
        raise UserError(
            f"{folder} was built with other {', '.join(others)}: "
            "delete the folder to build again"
        )


def file_checksum(path: str) -> str:
    """Return a checksum of a file's content.

    Raises:
      UserError: the file is missing.
    """
    checksum = hashlib.sha256()
    with open(files.require_file(path), "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            checksum.update(block)
    return checksum.hexdigest()


def annotation_checksum(referents) -> str:
    """Return a checksum of what `annotations.referents` says, wherever the files lie.

    A mask that is an image counts by its content.
    """
    said = [[r.image_name, r.sentences, _mask_of(r)] for r in referents]
    return hashlib.sha256(json.dumps(said).encode("ascii")).hexdigest()


def _mask_of(referent):
    if referent.mask_image:
        is_there = os.path.isfile(referent.mask_image)
        return file_checksum(referent.mask_image) if is_there else "missing"
    if referent.segmentations and len(referent.segmentations) == 1:
        return referent.segmentations[0]
    return referent.segmentations and {"united": referent.segmentations}
