"""STEP: look again at the sentence with what was found of the object.

Chen et al., "See-Through-Text Grouping for Referring Image Segmentation", ICCV 2019.
Its code was never published, and only its abstract could be read: this is our own
realisation of that idea. No weights of it exist, and no figure of the paper is claimed
for it.

From top to bottom: words; the image in a space that it shares with the words; and the
rounds. In each the words, weighted by attention, make a heatmap over the image, a
ConvLSTM that walks up the feature pyramid refines it, and the refined heatmap shifts
the attention of the next round. Every sentence of a batch is treated as if it were
alone.

Axes: B batch of sentences, P images, T words, K rounds, H rows, W columns, N = H * W
cells, C channels, E channels of the common space. Words are kept as images of one row,
[B, 1, T, C].
"""

from deeplab_resnet import LEVELS
from util.graph.algebra import match_sentences, sum_of_cells
from util.graph.compat import tf
from util.graph.layers import (
    conv,
    conv_variables,
    convolve,
    coordinates,
    l2_normalize,
)
from util.graph.recurrent import (
    conv_lstm_step,
    conv_lstm_variables,
    gates_of_input,
    lstm,
    word_table,
)
from util.models import base
from util.models.options import OPTIONS

FOLDS = 5
FIRST_SCALE = 10.0  # of heatmap and second look: a cosine alone is too faint
NO_WORD = -1e30  # logit of padding


def read(ids, options, dropout):
    """Read sentences with two LSTMs, one from each end; scale words to unit length.

    Args:
      ids: int32 [B, T], 0 is padding.
      options: of the model; without `glove` the vectors begin as normal noise.
      dropout: see `base.Model.head`, for "emb" and "rnn".

    Returns:
      float32 [B, 1, T, C], C = rnn_size; zeros at padding.

    Variables:
      Variable: see word_table
      RNN/fw/..., RNN/bw/...: see lstm
    """
    table = word_table(options.vocab_size, options.glove_dim, options.glove)
    vectors, is_word = tf.nn.embedding_lookup(table, ids), tf.not_equal(ids, 0)
    if "emb" in dropout:
        vectors *= dropout["emb"]
    size = options.rnn_size // 2
    forward = lstm(vectors, is_word, size, "RNN/fw")
    vectors, is_word = tf.reverse(vectors, [1]), tf.reverse(is_word, [1])
    backward = tf.reverse(lstm(vectors, is_word, size, "RNN/bw"), [1])
    words = tf.concat([forward, backward], axis=2)
    if "rnn" in dropout:
        words *= dropout["rnn"]
    return l2_normalize(words)[:, tf.newaxis]


def common_words(words, options):
    """Put words into the common space, and say what each is worth before any image.

    prior = W2 tanh(W1 word); key = l2n(W word).

    Args:
      words: float32 [B, 1, T, C].
      options: of the model.

    Returns:
      (keys, prior): float32 [B, 1, T, E], unit length; and [B, 1, T], logits.

    Variables:
      attend_1, attend_2, word_embed: see conv
    """
    hidden = conv(words, options.mlp_dim, 1, "attend_1", tf.tanh)
    prior = conv(hidden, 1, 1, "attend_2")[..., 0]
    return l2_normalize(conv(words, options.emb_dim, 1, "word_embed")), prior


def common_cells(visual, place, filters, level):
    """Put cells into the common space: l2n(W [visual, place]).

    "Left" is a relevance of a cell, so its place belongs in.

    Args:
      visual: float32 [P, H, W, C], unit length.
      place: float32 [1, H, W, 8], see `layers.coordinates`.
      filters: int, E.
      level: str, one of LEVELS.

    Returns:
      float32 [P, H, W, E], unit length.

    Variables:
      vis_embed_{level}: see conv_variables
    """
    sizes = [visual.shape.as_list()[3], 8]
    kernel, bias = conv_variables(sum(sizes), filters, 1, "vis_embed_" + level)
    of_visual, of_place = tf.split(kernel, sizes, axis=2)
    cells = convolve(visual, of_visual, tf.zeros([filters]))
    return l2_normalize(cells + convolve(place, of_place, bias))


class Fusion:
    """Mixes a level, the sentence, the place and the heatmap of a round.

    relu(W [visual, sentence, place, heat_scale * heatmap]). The share of the image is
    computed once.

    Args:
      visual: float32 [P, H, W, C], unit length.
      place: float32 [1, H, W, 8].
      words: int, channels of a sentence.
      filters: int, C_out.
      level: str, one of LEVELS.

    Attributes:
      of_image: float32 [P, H, W, C_out].

    Variables:
      fusion_{level}: see conv_variables
    """

    def __init__(self, visual, place, words, filters, level):
        sizes = [visual.shape.as_list()[3], words, 8, 1]
        kernel, bias = conv_variables(sum(sizes), filters, 1, "fusion_" + level)
        of_visual, self._of_words, of_place, self._of_heat = tf.split(kernel, sizes, 2)
        self._nothing = tf.zeros([filters])
        self.of_image = convolve(visual, of_visual, self._nothing)
        self.of_image += convolve(place, of_place, bias)

    def __call__(self, of_image, sentence, heat):
        """Mix; float32 [B or 1, H, W, C_out], [B, 1, 1, C] and [B, H, W, 1], scaled."""
        of_sentence = convolve(sentence, self._of_words, self._nothing)
        of_sentence += heat * self._of_heat[0, 0]
        return tf.nn.relu(of_image + of_sentence)


def weigh(logits, is_word):
    """Return the attention over the words of each sentence, zeros at padding.

    Args:
      logits: float32 [B, 1, T].
      is_word: bool [B, 1, T]; one at least.

    Returns:
      float32 [B, 1, T], sum 1.

    Example:
      >>> attention = weigh(tf.zeros([1, 1, 3]), tf.constant([[[False, True, True]]]))
      >>> with tf.Session() as session:
      ...     session.run(attention).tolist()
      [[[0.0, 0.5, 0.5]]]
    """
    logits = tf.where(is_word, logits, NO_WORD * tf.ones_like(logits))
    return tf.nn.softmax(logits) * tf.cast(is_word, tf.float32)


def sentence_vector(words, attention):
    """Sum words by attention and scale to unit length.

    Args:
      words: float32 [B, 1, T, C].
      attention: float32 [B, 1, T].

    Returns:
      float32 [B, 1, 1, C].
    """
    total = tf.reduce_sum(attention[..., tf.newaxis] * words, axis=2, keepdims=True)
    return l2_normalize(total)


def look_again(refined, seen):
    """Describe what a refined heatmap covers, in the common space.

    l2n(sum over levels and cells of refined * seen).

    Args:
      refined: float32 [B, H, W, 1], 0..1.
      seen: list of float32 [B or 1, H, W, E], unit length.

    Returns:
      float32 [B, 1, 1, E].
    """
    return l2_normalize(sum(sum_of_cells(cells, refined) for cells in seen))


class LSTM_model(base.Model):
    """The network in the default graph, see `base.Model` for arguments and attributes.

    Args:
      those of `base.Arguments`, and
      emb_dim: int, E, channels of the space that image and words have in common.
      folds: int, K, rounds, see `models.OPTIONS`.

    Attributes:
      heat: float32 [B, K, h, w, 3], the heatmaps of c5, c4 and c3, -1..1.
      scores: float32 [B, K, h, w, 1], the logits of each round.
      attention: float32 [B, K, T], of the words in each round; zeros at padding.

    Example:
      >>> model = LSTM_model(vocab_size=50, H=64, W=64, vf_h=8, vf_w=8, folds=2)
      >>> model.up.shape.as_list(), model.heat.shape.as_list()
      ([1, 64, 64, 1], [1, 2, 8, 8, 3])
    """

    NAME = "STEP_model"
    Arguments = base.arguments({"inputs": {"emb_dim": 500, "folds": FOLDS}})
    SIGNATURE = f"{base.SCOPE}/vis_embed_c5/DW"
    WORD_TABLE = f"{base.SCOPE}/Variable"
    STEP_COUNTER = f"{base.SCOPE}/Variable_1"
    OPTIONS = ("folds",)
    SHOWN = "The heatmap of each round, and what the ConvLSTM made of it"

    @classmethod
    def check(cls, options):
        """Refuse arguments that do not go together, see `base.Model.check`."""
        if options.rnn_size % 2:
            raise ValueError(f"rnn_size {options.rnn_size} is odd: two LSTMs share it")
        super().check(options)

    @classmethod
    def channels(cls, v_emb_dim, mlp_dim):
        """Return the arguments for the channels that a user chooses."""
        of_words = {"rnn_size": v_emb_dim + v_emb_dim % 2, "emb_dim": mlp_dim}
        return {"v_emb_dim": v_emb_dim, "mlp_dim": mlp_dim, **of_words}

    @classmethod
    def sizes(cls, shapes):
        """Read the sizes from a checkpoint's shapes, see `base.Model.sizes`."""
        vocab_size, glove_dim = cls.stored_shape(shapes, "Variable", 2)
        peephole = cls.stored_shape(shapes, "rnn/conv_lstm_cell/W_ci", 3)
        rows, columns, mlp_dim = peephole
        return dict(
            base.grid_sizes(base.STRIDE * rows, base.STRIDE * columns),
            vocab_size=vocab_size,
            glove_dim=glove_dim,
            v_emb_dim=cls.stored_shape(shapes, "c5_lateral/DW", 4)[3],
            rnn_size=cls.stored_shape(shapes, "word_embed/DW", 4)[2],
            emb_dim=cls.stored_shape(shapes, "word_embed/DW", 4)[3],
            mlp_dim=mlp_dim,
            folds=OPTIONS["folds"],  # the variables are the same for any number
        )

    def dropout_channels(self):
        """Return what dropout applies to: word vectors and outputs of the LSTMs."""
        return {"emb": self.options.glove_dim, "rnn": self.options.rnn_size}

    def head(self, ids, taps, dropout, share):
        """Find the pixels, see `base.Model.head`.

        Variables:
          those of `read` and `common_words`
          {level}_lateral: see conv, and vis_embed_{level}, for each of LEVELS
          heat_scale, look_scale  scalars
          fusion_{level}: see Fusion
          rnn/conv_lstm_cell/...: see conv_lstm_variables
          score: see conv_variables
        """
        options = self.options
        words = read(ids, options, dropout)
        keys, prior = common_words(words, options)
        is_word = tf.not_equal(ids, 0)[:, tf.newaxis]
        place = tf.constant(coordinates(options.vf_h, options.vf_w)[tf.newaxis])
        visual, seen = [], []
        for level in LEVELS:
            lateral = conv(taps[level], options.v_emb_dim, 1, level + "_lateral")
            visual.append(l2_normalize(lateral))
            seen.append(common_cells(visual[-1], place, options.emb_dim, level))
        scale = tf.constant_initializer(FIRST_SCALE)
        heat_scale = tf.get_variable("heat_scale", [], initializer=scale)
        look_scale = tf.get_variable("look_scale", [], initializer=scale)
        sizes = options.rnn_size, options.mlp_dim
        mix = [Fusion(x, place, *sizes, level) for x, level in zip(visual, LEVELS)]
        with tf.variable_scope("rnn/conv_lstm_cell"):
            cell = conv_lstm_variables(options.vf_h, options.vf_w, options.mlp_dim)
        score = conv_variables(options.mlp_dim, 1, 3, "score")

        of_image = [*seen, *(fuse.of_image for fuse in mix)]
        seen, parts = list(map(share, seen)), [share(fuse.of_image) for fuse in mix]
        state, logits, rounds = None, prior, []
        for _ in range(options.folds):
            attention = weigh(logits, is_word)
            sentence = sentence_vector(words, attention)
            asked = sentence_vector(keys, attention)
            heat = [match_sentences(cells, asked) for cells in seen]
            for one, fuse, part in zip(heat, mix, parts):
                fused = fuse(part, sentence, heat_scale * one)
                gates = gates_of_input(fused, cell, is_first=state is None)
                state = conv_lstm_step(gates, state, cell)
            pred = convolve(state[1], *score)
            rounds.append((tf.concat(heat, axis=3), pred, attention[:, 0]))
            found = look_again(tf.sigmoid(pred), seen)
            logits = prior + look_scale * tf.reduce_sum(keys * found, axis=3)
        heats, preds, attentions = (tf.stack(each, axis=1) for each in zip(*rounds))
        outputs = {"heat": heats, "scores": preds, "attention": attentions}
        *earlier, (_, pred, _) = rounds
        answers = {f"round_{n}": one for n, (_, one, _) in enumerate(earlier, 1)}
        return base.Answer({"pred": pred, **answers}, of_image, outputs)

    def to_show(self):
        """Return heat_1, round_1, heat_2, ...; the last round is the answer itself.

        A heatmap is the mean of its three levels, from -1..1 to 0..1.
        """
        shown = {}
        for number in range(1, self.options.folds + 1):
            heat = tf.reduce_mean(self.heat[:, number - 1], axis=3, keepdims=True)
            size = self.options.H, self.options.W
            heat = tf.image.resize_bilinear((1 + heat) / 2, size)
            shown[f"heat_{number}"] = heat[..., 0]
            name = f"round_{number}"
            if name in self.ups:
                shown[name] = tf.sigmoid(self.ups[name][..., 0])
        return shown

    def loss_weights(self):
        """Weigh the rounds alike: to look again rests on usable answers before."""
        return dict.fromkeys(self.ups, 1 / self.options.folds)
