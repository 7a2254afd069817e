"""Saving snapshots while a network is trained."""

import contextlib
import glob
import json
import os
import shutil
from typing import Any, Dict, Optional

from util.core import files
from util.core.errors import UserError
from util.data import text_processing, vocabularies
from util.graph import checkpoint
from util.graph.checkpoint import BEST, DATA, INDEX, STATE
from util.graph.compat import tf

KEPT = 4  # snapshots a training run leaves

UNFINISHED = ".saving"  # folder of a snapshot that is being written


class Snapshots:
    """Saves the variables of the default graph; the newest KEPT stay.

    Args:
      folder: where the snapshots go; made where missing.
      dataset: first part of their names.
    """

    def __init__(self, folder: str, dataset: str) -> None:
        self._folder, self._dataset, self._words = folder, dataset, {}
        self._saver = tf.train.Saver(max_to_keep=None)
        lengths = [tf.nn.l2_loss(variable) for variable in tf.trainable_variables()]
        self._finite = tf.reduce_all(tf.is_finite(tf.stack(lengths)))
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write snapshots to {folder}: {error.strerror}"
            ) from error
        files.remove_parts(folder)
        self._clear()

    def are_finite(self, session) -> bool:
        """Tell whether no trained value is NaN or infinite."""
        return bool(session.run(self._finite))

    def save(self, session, step: int, state: Optional[Dict[str, Any]] = None) -> str:
        """Save under the name of `step` and return the path.

        The snapshot appears whole or not at all; only then older ones go.

        Args:
          state: what else a run needs to resume from it, as JSON can hold it.

        Raises:
          UserError: the snapshot cannot be written; older ones stay.
        """
        snapshot = checkpoint.path(self._folder, self._dataset, step)
        unfinished = os.path.join(self._folder, UNFINISHED)
        written = os.path.join(unfinished, os.path.basename(snapshot))
        try:
            os.makedirs(unfinished, exist_ok=True)
            self._saver.save(
                session, written, write_meta_graph=False, write_state=False
            )
            with open(written + STATE, "w", encoding="utf-8") as file:
                json.dump(dict(state or {"step": step}, **self._words), file)
            for end in (DATA, STATE, INDEX):
                with open(written + end, "rb") as file:
                    os.fsync(file.fileno())
            for end in (DATA, STATE, INDEX):  # without an index it does not count
                os.replace(written + end, snapshot + end)
            files.flush_folder(self._folder)
            self._forget_old(snapshot)
        except (tf.errors.OpError, OSError, ValueError) as error:
            if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
                raise  # a parameter server is gone
            raise UserError(
                f"cannot write the snapshot {snapshot}: is the disk full, or the "
                "folder gone or protected? Older snapshots are whole"
            ) from error
        finally:
            self._clear()
        return snapshot

    def write_state(self, step: int, state: Dict[str, Any]) -> None:
        """Replace the state of a snapshot."""
        snapshot = checkpoint.path(self._folder, self._dataset, step)
        with files.writing(snapshot + STATE, durable=True) as file:
            file.write(json.dumps(dict(state, **self._words)).encode("ascii"))

    def keep_best(self, step: int) -> str:
        """Keep a snapshot under the name of BEST, whatever becomes of it."""
        snapshot = checkpoint.path(self._folder, self._dataset, step)
        best = checkpoint.path(self._folder, self._dataset, BEST)
        unfinished = os.path.join(self._folder, UNFINISHED)
        try:
            os.makedirs(unfinished, exist_ok=True)
            ends = (DATA, STATE, INDEX)
            for end in ends:
                _link(snapshot + end, os.path.join(unfinished, BEST + end))
            # Killed from here on there is none, rather than half of each; a run that
            # is resumed then evaluates again.
            with contextlib.suppress(FileNotFoundError):
                os.remove(best + INDEX)
            for end in ends:
                os.replace(os.path.join(unfinished, BEST + end), best + end)
        except OSError as error:
            raise UserError(
                f"cannot write the snapshot {best}: {error.strerror}"
            ) from error
        finally:
            self._clear()
        return best

    def copy_vocabulary(self, vocabulary: str) -> None:
        """Keep a copy of the vocabulary, path of a file, next to the snapshots.

        Its checksum goes into all states from now on.

        Raises:
          UserError: another one is there, see `check_words`.
        """
        check_words(self._folder, vocabulary)
        self._words = {checkpoint.WORDS: vocabularies.checksum(vocabulary)}
        with open(vocabulary, "rb") as source:
            with files.writing(
                os.path.join(self._folder, text_processing.VOCABULARY)
            ) as file:
                shutil.copyfileobj(source, file)

    def _forget_old(self, newest):
        steps = checkpoint.steps(self._folder, self._dataset)
        for step in steps[:-KEPT]:
            old = checkpoint.path(self._folder, self._dataset, step)
            names = glob.glob(glob.escape(old) + ".*")
            for name in sorted(names, key=lambda name: not name.endswith(INDEX)):
                if name.endswith((INDEX, STATE)) or ".data-" in name:
                    os.remove(name)
        tf.train.update_checkpoint_state(
            self._folder,
            os.path.basename(newest),
            [
                os.path.basename(checkpoint.path("", self._dataset, step))
                for step in steps[-KEPT:]
            ],
        )

    def _clear(self):
        shutil.rmtree(os.path.join(self._folder, UNFINISHED), ignore_errors=True)


def check_words(folder: str, vocabulary: str) -> None:
    """Refuse a folder of snapshots that has another vocabulary.

    Args:
      folder: of the snapshots; may be missing.
      vocabulary: path of the words that are trained with.

    Raises:
      UserError: there is a vocabulary.txt with other words.
    """
    kept = os.path.join(folder, text_processing.VOCABULARY)
    if os.path.exists(kept) and not vocabularies.are_same(vocabulary, kept):
        raise UserError(
            f"{kept} is another vocabulary than {vocabulary}: choose another -f, or "
            "put the vocabulary back that was trained with"
        )


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # file systems without links
        shutil.copyfile(source, target)
