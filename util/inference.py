"""From a picture and a sentence to a mask, with the network of a snapshot."""

from typing import Tuple

import numpy as np

from util import checkpoint, im_processing, text_processing
from util.compat import new_session, tf


class Predictor:
    """Runs a snapshot: one picture, then any number of sentences about it.

    Use it as a context manager, or call `close` at the end.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      snapshot: path of a checkpoint; the network's sizes are read from it.

    Attributes:
      image: uint8 [H, W, 3], the picture as the network sees it; None before
        `set_image`.
      vocab_size: int, ids must be smaller.

    Raises:
      UserError: the snapshot cannot be read or does not fit.
    """

    def __init__(self, model_class, snapshot: str) -> None:
        sizes = checkpoint.sizes(snapshot)
        self.vocab_size = sizes["vocab_size"]
        self.image = None
        graph = tf.Graph()
        with graph.as_default():
            self._model = model_class(
                mode="eval", num_steps=text_processing.MAX_WORDS, **sizes
            )
            self._session = new_session(graph)
            checkpoint.load(self._session, snapshot)

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
        taps = [model.visual_feat_c3, model.visual_feat_c4, model.visual_feat_c5]
        seen = {model.im: im_processing.to_network_input(image)[np.newaxis]}
        self._taps = dict(zip(taps, self._session.run(taps, seen)))
        self.image = image

    def segment(self, words: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Find what a sentence refers to in the picture of `set_image`.

        Args:
          words: int32 [T], ids, padded in front with 0.

        Returns:
          (logits, probability): float32 [H, W] on the picture as the network sees it;
          a pixel belongs to the object where its logit is above 0.
        """
        model = self._model
        feed = dict(self._taps)
        feed[model.words] = np.asarray(words)[np.newaxis]
        logits, probability = self._session.run([model.up, model.sigm], feed)
        return logits[0, :, :, 0], probability[0, :, :, 0]

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
