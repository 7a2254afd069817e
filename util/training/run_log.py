"""What a training run reports, in the folder of its snapshots.

run.json                 command, options, network, versions, revision; resumptions
log.jsonl                losses, accuracies, speed and memory, a line now and then
eval.jsonl               scores of evaluations on the way, a line each
events.out.tfevents.*    the same for TensorBoard, and the images
images/                  a step's samples, each with the true mask and the network's
"""

import contextlib
import datetime
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from PIL import Image

from util.core import files
from util.core.errors import UserError
from util.graph.compat import tf
from util.inference import visualize

RECORD, LOG, EVALUATIONS = "run.json", "log.jsonl", "eval.jsonl"
IMAGES = "images"


class RunLog:
    """Writes the files above; close it at the end.

    Args:
      folder: of the snapshots; made where missing.
      step: how many steps were taken before. What the files say of later ones, before
        the run was interrupted, is dropped: they are taken again.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: str, step: int = 0) -> None:
        self._folder = folder
        try:
            os.makedirs(folder, exist_ok=True)
            if not step:
                _set_aside(folder)
            for name in (LOG, EVALUATIONS):
                _drop_after(os.path.join(folder, name), step)
            suffix = f".{step}"
            self._events = tf.summary.FileWriter(folder, filename_suffix=suffix)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"cannot write to {folder} ({error}): choose another folder with -f"
            ) from error
        # TensorBoard forgets the later steps, too.
        start = tf.SessionLog(status=tf.SessionLog.START)
        self._events.add_session_log(start, step)

    def begin(self, record: Dict[str, Any], step: int = 0) -> None:
        """Write run.json, or add to it that the run is resumed at `step`.

        Args:
          record: as JSON can hold it; command, time and revision of the code are added.
        """
        path = os.path.join(self._folder, RECORD)
        record = dict(
            record, command=command_line(), revision=git_revision(), started=_now()
        )
        if step:
            first = read_record(self._folder)
            if not isinstance(first.get("resumed"), list):
                first["resumed"] = []
            again = first["resumed"]
            again.append(dict(record, step=step))
            record = first
        with _writing(path), files.whole_file(path, "w", durable=True) as file:
            json.dump(record, file, indent=2)
            file.write("\n")

    def log(self, step: int, figures: Dict[str, float]) -> None:
        """Add a line to log.jsonl."""
        self._add(LOG, step, figures, {})

    def evaluation(self, step: int, figures: Dict[str, float], **about: Any) -> None:
        """Add a line to eval.jsonl; `about` says what was evaluated."""
        self._add(EVALUATIONS, step, figures, about)

    def images(
        self, step: int, samples: List[Dict[str, Any]], scores: np.ndarray
    ) -> None:
        """Draw the masks of a step next to the true ones.

        Args:
          samples: B of them, see `samples.read_sample`.
          scores: float32 [B, H, W, 1], logits.
        """
        drawn = [
            (
                sample["im_batch"],
                sample["mask_batch"],
                found[..., 0] > 0,
                str(sample["sent_batch"][0]),
                "step {}, sample {}".format(step, sample["number"]),
            )
            for sample, found in zip(samples, scores)
        ]
        sheet = visualize.contact_sheet(drawn, columns=1)
        path = os.path.join(self._folder, IMAGES, f"{step:07d}.png")
        with _writing(path):
            visualize.save_png(path, sheet)
        png = io.BytesIO()
        Image.fromarray(sheet).save(png, "PNG")
        image = tf.Summary.Image(
            height=sheet.shape[0],
            width=sheet.shape[1],
            colorspace=3,
            encoded_image_string=png.getvalue(),
        )
        value = tf.Summary.Value(tag="masks", image=image)
        self._events.add_summary(tf.Summary(value=[value]), step)
        self._events.flush()

    def close(self) -> None:
        """Write what is still waiting."""
        self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _add(self, name, step, figures, about):
        path = os.path.join(self._folder, name)
        with _writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(about, step=step, **figures)) + "\n")
        prefix = "eval_" if name == EVALUATIONS else ""
        values = [
            tf.Summary.Value(tag=prefix + key, simple_value=value)
            for key, value in figures.items()
        ]
        self._events.add_summary(tf.Summary(value=values), step)
        self._events.flush()


def read_record(folder: str) -> Dict[str, Any]:
    """Return what run.json says; nothing where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            record = json.load(file)
            return record if isinstance(record, dict) else {}
    return {}


def require_own(folder: str, dataset: str) -> None:
    """Refuse a folder where a run on another data set has written.

    Raises:
      UserError: names that data set.
    """
    other = read_record(folder).get("data_set", dataset)
    pattern = re.compile(r"(.+)_iter_(?:[0-9]+|best)\.tfmodel\.index")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = {match.group(1) for match in map(pattern.fullmatch, names) if match}
    others = sorted((found | {str(other)}) - {dataset})
    if others:
        raise UserError(
            f"{folder} belongs to a run on {', '.join(others)}: choose another folder "
            "with -f"
        )


def _set_aside(folder):
    """Keep what an earlier run has written, under other names."""
    logs = (LOG, EVALUATIONS)
    paths = [os.path.join(folder, name) for name in logs]
    if not any(os.path.isfile(path) and os.path.getsize(path) for path in paths):
        return
    names = os.listdir(folder)
    number = next(n for n in itertools.count(1) if f"earlier_{n}_{LOG}" not in names)
    for name in (EVALUATIONS, RECORD, LOG):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            os.replace(path, os.path.join(folder, f"earlier_{number}_{name}"))
    print(f"the log of an earlier run in {folder} is kept: earlier_{number}_{LOG}")


def git_revision() -> str:
    """Return the revision of this code, "-dirty" where files differ, "" if unknown."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():  # installed, maybe inside another repository
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        found = subprocess.run(
            command,
            cwd=str(top),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        return found.stdout.strip()
    return ""


def command_line() -> List[str]:
    """Return how this process was started."""
    return [os.path.basename(sys.argv[0])] + sys.argv[1:]


def _now():
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _drop_after(path, step):
    """Keep the lines up to `step`; one that a kill cut off or damaged goes too."""
    if not os.path.exists(path):
        return
    kept = []
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
    with files.whole_file(path, durable=True) as file:
        file.writelines(kept)


@contextlib.contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): free some space and continue "
            "with --resume"
        ) from error
