"""From a picture and sentences to masks, with the network of a snapshot."""

import math
from typing import Tuple

import numpy as np

from util import checkpoint, im_processing, text_processing
from util.compat import new_session, tf

# Sentences at once: more need more memory and are hardly faster.
CHUNK = 12


class Predictor:
    """Runs a snapshot: one picture, then any number of sentences about it.

    Use it as a context manager, or call `close` at the end.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      snapshot: path of a checkpoint; the network's sizes are read from it.
      precision: see `compat.new_session`.

    Attributes:
      image: uint8 [H, W, 3], the picture as the network sees it; None before
        `set_image`.
      vocab_size: int, ids must be smaller.

    Raises:
      UserError: the snapshot cannot be read or does not fit, or the precision cannot
        be had here.
    """

    def __init__(self, model_class, snapshot: str, precision: str = "float32") -> None:
        sizes = checkpoint.sizes(snapshot)
        self.vocab_size = sizes["vocab_size"]
        self.image = None
        with tf.Graph().as_default() as graph:
            self._model = model_class(
                batch_size=None,
                num_pictures=1,
                mode="eval",
                num_steps=text_processing.MAX_WORDS,
                **sizes,
            )
            self._session = new_session(graph, precision)
            checkpoint.load(self._session, snapshot)
        self._seen = {}

    def set_image(self, picture: np.ndarray) -> None:
        """Look at a picture; the same one again costs nothing.

        Args:
          picture: uint8 [rows, columns, 3], RGB, any size.
        """
        model = self._model
        rows, columns = model.im.shape.as_list()[1:3]
        image = im_processing.fit_picture(picture, rows, columns)
        if self.image is not None and np.array_equal(image, self.image):
            return
        feed = {model.im: im_processing.to_network_input(image)[np.newaxis]}
        parts = self._session.run(model.picture_parts, feed)
        self._seen = dict(zip(model.picture_parts, parts))
        self.image = image

    def segment(self, sentences: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Find what sentences refer to in the picture of `set_image`.

        Args:
          sentences: int32 [B, T], ids, padded in front with 0; any B above 0.

        Returns:
          (logits, probability): float32 [B, H, W] on the picture as the network sees
          it; a pixel belongs to the object where its logit is above 0.
        """
        model, sentences = self._model, np.asarray(sentences)
        chunks = np.array_split(sentences, math.ceil(len(sentences) / CHUNK))
        found = [
            self._session.run(
                [model.up, model.sigm], {**self._seen, model.words: chunk}
            )
            for chunk in chunks
        ]
        logits, probability = map(np.concatenate, zip(*found))
        return logits[..., 0], probability[..., 0]

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
