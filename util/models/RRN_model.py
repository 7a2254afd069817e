"""RRN: refine a first answer by walking up the feature pyramid.

Li et al., "Referring Image Segmentation via Recurrent Refinement Networks", CVPR 2018.
From top to bottom: the sentence meets the deepest feature level, a ConvLSTM walks from
there to finer ones, and `LSTM_model.head` puts both together. Names and shapes of the
variables are those of the release. Every sentence of a batch is treated as if it were
alone, which the release cannot do.

Axes: B batch of sentences, P images, T words, H rows, W columns, C channels.
"""

from deeplab_resnet import LEVELS
from util.graph.compat import tf
from util.graph.layers import (
    conv,
    conv_variables,
    convolve,
    coordinates,
    l2_normalize,
)
from util.graph.recurrent import (
    LSTM_CELL,
    conv_lstm_step,
    conv_lstm_variables,
    gates_of_input,
    read_words,
)
from util.models import base

WORD_VECTOR_RANGE = 0.08  # word vectors begin between this and its negative


def read(ids, options, dropout):
    """Read sentences with an LSTM over word vectors.

    Args:
      ids: int32 [B, T], 0 is padding.
      options: of the model.
      dropout: see `base.Model.head`, for "emb" and "rnn".

    Returns:
      float32 [B, C], C = rnn_size: the output at the last position.

    Variables:
      embedding  [vocab_size, w_emb_dim]
      LSTM_CELL/...: see lstm
    """
    first = tf.random_uniform_initializer(-WORD_VECTOR_RANGE, WORD_VECTOR_RANGE)
    shape = [options.vocab_size, options.w_emb_dim]
    table = tf.get_variable("embedding", shape, initializer=first)
    return read_words(ids, table, options.rnn_size, LSTM_CELL, dropout)[:, -1]


def fusion(visual, sentence, place, filters, share):
    """Mix the deepest level, the sentence and the place: relu(W [visual, s, place]).

    The sentence is the same in every cell, and all but it in every sentence of an
    image.

    Args:
      visual: float32 [P, H, W, C_vis], unit length.
      sentence: float32 [B, 1, 1, C_rnn], unit length.
      place: float32 [1, H, W, 8], see `layers.coordinates`.
      filters: int, C.
      share: see `base.Model.head`.

    Returns:
      (fused, of_image): float32 [B, H, W, C], not negative; and [P, H, W, C], the
      image's share.

    Variables:
      fusion: see conv_variables
    """
    parts = [visual, sentence, place]
    sizes = [part.shape.as_list()[3] for part in parts]
    kernel, bias = conv_variables(sum(sizes), filters, 1, "fusion")
    kernels = tf.split(kernel, sizes, axis=2)
    nothing = tf.zeros([filters])
    of_image = convolve(visual, kernels[0], nothing) + convolve(place, kernels[2], bias)
    of_sentence = convolve(sentence, kernels[1], nothing)
    return tf.nn.relu(share(of_image) + of_sentence), of_image


def refine(fused, laterals, share):
    """Walk from the first answer up the feature pyramid with a ConvLSTM.

    What a level gives to the gates does not depend on the sentence.

    Args:
      fused: float32 [B, H, W, C].
      laterals: list of float32 [P, H, W, C], deep to shallow.
      share: see `base.Model.head`.

    Returns:
      (hidden, of_image): float32 [B, H, W, C], the last state; and a list of [P, H, W,
      C], the image's share: four a level.

    Variables:
      rnn/conv_lstm_cell/...: see conv_lstm_variables
    """
    with tf.variable_scope("rnn/conv_lstm_cell"):
        variables = conv_lstm_variables(*fused.shape.as_list()[1:])
    of_image = [gates_of_input(lateral, variables) for lateral in laterals]
    first = gates_of_input(fused, variables, is_first=True)
    state = conv_lstm_step(first, None, variables)
    for gates in of_image:
        state = conv_lstm_step([share(gate) for gate in gates], state, variables)
    _, hidden = state
    return hidden, [gate for gates in of_image for gate in gates]


class LSTM_model(base.Model):
    """The network in the default graph, see `base.Model` for arguments and attributes.

    Args:
      those of `base.Arguments` but for GloVe's, in the order of the release, and
      w_emb_dim: int, length of a word vector.
      num_rnn_layers: int, 1.
      lr_decay_rate, keep_prob_mlp: accepted for older callers and not used.
      v_emb_dim: int, channels of the deepest level where the sentence meets it.
      rnn_size: int, channels of the sentence; these two and w_emb_dim may differ.

    Attributes:
      visual_feat: float32 [P, h, w, 2048], the same as visual_feat_c5.
      sentence: float32 [B, rnn_size], what the sentence was read as.

    Example:
      >>> model = LSTM_model(vocab_size=50, H=64, W=64, vf_h=8, vf_w=8)
      >>> model.up.shape.as_list()
      [1, 64, 64, 1]
    """

    NAME = "RRN_model"
    Arguments = base.arguments(
        {
            "vocab_size": {"w_emb_dim": 1000},
            "lr_decay_step": {"lr_decay_rate": 1.0},
            "keep_prob_emb": {"keep_prob_mlp": 1.0, "num_rnn_layers": 1},
        },
        without=("glove_dim", "glove"),
    )
    SIGNATURE = f"{base.SCOPE}/mlp0/DW"
    WORD_TABLE = f"{base.SCOPE}/embedding"
    STEP_COUNTER = f"{base.SCOPE}/Variable"

    @classmethod
    def check(cls, options):
        """Refuse arguments that do not go together, see `base.Model.check`."""
        if options.num_rnn_layers != 1:
            raise ValueError(
                f"num_rnn_layers {options.num_rnn_layers}: only 1 is known"
            )
        super().check(options)

    @classmethod
    def channels(cls, v_emb_dim, mlp_dim):
        """Return the arguments for the channels that a user chooses."""
        of_words = {"w_emb_dim": v_emb_dim, "rnn_size": v_emb_dim}
        return {"v_emb_dim": v_emb_dim, "mlp_dim": mlp_dim, **of_words}

    @classmethod
    def sizes(cls, shapes):
        """Read the sizes from a checkpoint's shapes, see `base.Model.sizes`."""
        vocab_size, w_emb_dim = cls.stored_shape(shapes, "embedding", 2)
        _, gates = cls.stored_shape(shapes, f"{LSTM_CELL}/kernel", 2)
        peephole = cls.stored_shape(shapes, "rnn/conv_lstm_cell/W_ci", 3)
        rows, columns, mlp_dim = peephole
        return dict(
            base.grid_sizes(base.STRIDE * rows, base.STRIDE * columns),
            vocab_size=vocab_size,
            w_emb_dim=w_emb_dim,
            rnn_size=gates // 4,
            v_emb_dim=cls.stored_shape(shapes, "mlp0/DW", 4)[3],
            mlp_dim=mlp_dim,
        )

    def dropout_channels(self):
        """Return what dropout applies to: word vectors and outputs of the LSTM."""
        return {"emb": self.options.w_emb_dim, "rnn": self.options.rnn_size}

    @property
    def visual_feat(self):
        """The deepest features, by the name that the release has for them."""
        return self.visual_feat_c5

    def head(self, ids, taps, dropout, share):
        """Find the pixels, see `base.Model.head`.

        Variables:
          mlp0: see conv
          those of the functions above, but for:
          {level}_lateral for each of LEVELS: see conv; before those of refine
          score: see conv
        """
        options = self.options
        visual = conv(taps["c5"], options.v_emb_dim, 1, "mlp0")
        sentence = read(ids, options, dropout)
        place = tf.constant(coordinates(options.vf_h, options.vf_w)[tf.newaxis])
        fused, of_image = fusion(
            l2_normalize(visual),
            l2_normalize(sentence)[:, tf.newaxis, tf.newaxis],
            place,
            options.mlp_dim,
            share,
        )
        laterals = [
            conv(taps[level], options.mlp_dim, 1, level + "_lateral", tf.nn.relu)
            for level in LEVELS
        ]
        hidden, of_levels = refine(fused, laterals, share)
        logits = {"pred": conv(hidden, 1, 3, "score")}
        return base.Answer(logits, [of_image, *of_levels], {"sentence": sentence})
