"""A second model, as small as can be, for the tests of what all models share.

It has one score, no classes of words, no word vectors of GloVe, and other names for
the step counter and the word table than CMPC.
"""

from util.graph.compat import tf
from util.graph.layers import conv
from util.models import base


class LSTM_model(base.Model):
    """Multiplies what the image shows in each cell with the sum of the words."""

    NAME = "toy_model"
    Arguments = base.arguments({}, without=("rnn_size", "glove_dim", "glove"))
    SIGNATURE = "text_objseg/toy/DW"
    WORD_TABLE = "text_objseg/embedding"
    STEP_COUNTER = "text_objseg/Variable"

    @classmethod
    def sizes(cls, shapes):
        """Read the sizes from a checkpoint's shapes."""
        vocab_size, channels = cls.stored_shape(shapes, "embedding", 2)
        rows, columns, fused_channels = cls.stored_shape(shapes, "place", 3)
        return dict(
            base.grid_sizes(base.STRIDE * rows, base.STRIDE * columns),
            vocab_size=vocab_size,
            **cls.channels(channels, fused_channels),
        )

    def dropout_channels(self):
        """Return what dropout applies to."""
        return {"emb": self.options.v_emb_dim}

    def head(self, ids, taps, dropout, share):
        """Find the pixels, see `base.Model.head`."""
        options = self.options
        shape = [options.vocab_size, options.v_emb_dim]
        vectors = tf.nn.embedding_lookup(tf.get_variable("embedding", shape), ids)
        vectors *= tf.cast(tf.not_equal(ids, 0), tf.float32)[..., tf.newaxis]
        if "emb" in dropout:
            vectors *= dropout["emb"]
        words = tf.reduce_sum(vectors, axis=1)[:, tf.newaxis, tf.newaxis]
        grid = [options.vf_h, options.vf_w, options.mlp_dim]
        image = conv(taps["c5"], options.mlp_dim, 1, "toy", tf.nn.relu)
        image += tf.get_variable("place", grid)
        sentence = conv(words, options.mlp_dim, 1, "sentence", tf.tanh)
        cells = share(image) * sentence
        return base.Answer({"pred": conv(cells, 1, 3, "score")}, [image], {})
