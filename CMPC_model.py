"""CMPC: find the pixels a sentence refers to (arXiv:2010.00514).

From top to bottom: words; entity perception (MUTAN fusion of sentence and image);
relation reasoning (a graph over the image's cells whose edges are the relation words);
text-guided exchange between three feature levels; and `LSTM_model.head`, which puts
them together and reads the levels with a ConvLSTM. The rest of a network, from the
placeholders to the training step, is in `base.Model`, and what others added to the
paper in `refinement`, `second_pass` and `variants`. Every sentence of a batch is
treated as if it were alone.

Axes: B batch of sentences, P images, T words, H rows, W columns, N = H * W cells,
C channels. Words are kept as images of one row, [B, 1, T, C].
"""

from deeplab_resnet import LEVELS
from util.graph.algebra import project_back, sums_of_one_image
from util.graph.compat import tf
from util.graph.layers import (
    conv,
    conv_variables,
    convolve,
    coordinates,
    gated_conv,
    l2_normalize,
    layer_norm,
    layer_norm_of_product,
)
from util.graph.recurrent import LSTM_CELL, conv_lstm, read_words, word_table
from util.models import base, refinement, second_pass, variants

MUTAN_HEADS = 5  # terms of the fusion: its rank
WORD_CLASSES = ("entity", "attribute", "relation", "unnecessary")
PARSE_CHANNELS = 500


def read(ids, options, dropout):
    """Read sentences with an LSTM over word vectors; scale each word to unit length.

    Args:
      ids: int32 [B, T], 0 is padding.
      options: of the model; without `glove` the vectors begin as normal noise.
      dropout: see `base.Model.head`, for "emb" and "rnn".

    Returns:
      float32 [B, 1, T, C], C = rnn_size; zeros at padding.

    Variables:
      Variable: see word_table
      LSTM_CELL/...: see lstm
    """
    table = word_table(options.vocab_size, options.glove_dim, options.glove)
    words = read_words(ids, table, options.rnn_size, LSTM_CELL, dropout)
    return l2_normalize(words)[:, tf.newaxis]


def word_classes(words):
    """Classify each word: softmax(W2 relu(W1 word)).

    Args:
      words: float32 [B, 1, T, C].

    Returns:
      float32 [B, 1, T, 4], probabilities: entity, attribute, relation, unnecessary.

    Variables:
      words_parse_1, words_parse_2: see conv
    """
    hidden = conv(words, PARSE_CHANNELS, 1, "words_parse_1", tf.nn.relu)
    return tf.nn.softmax(conv(hidden, len(WORD_CLASSES), 1, "words_parse_2"))


def sentence_vector(words, weights):
    """Sum the words of each sentence, weighted, and scale to unit length.

    Args:
      words: float32 [B, 1, T, C], zeros at padding.
      weights: float32 [B, 1, T], in [0, 1].

    Returns:
      float32 [B, 1, 1, C].
    """
    total = tf.reduce_sum(weights[..., tf.newaxis] * words, axis=2, keepdims=True)
    return l2_normalize(total)


def mutan_fusion(visual, place, sentence, level, share, differentiable):
    """Fuse a sentence with every cell of one feature level.

    MUTAN (arXiv:1705.06676) of rank 5, scaled to unit length: l2n(tanh(sum_k
    tanh(U_k [visual, place]) * tanh(V_k sentence))). The image's projections, the first
    factors, serve all its sentences.

    Args:
      visual: float32 [P, H, W, C], unit length.
      place: float32 [1, H, W, 8], see `layers.coordinates`.
      sentence: float32 [B, 1, 1, C], unit length.
      level: str, one of LEVELS.
      share: see `base.Model.head`.
      differentiable: bool, take the way with fast gradients.

    Returns:
      (fused, of_image): float32 [B, H, W, C], unit length; and the image's
      projections: five float32 [P, H, W, C], or where the sum need not be
      differentiable one [P, H, W, 5 * C].

    Variables:
      vis_trans_{level}_head{1..5}: see conv_variables
      lang_trans_{level}_head{1..5}: see conv
    """
    _, rows, columns, channels = visual.shape.as_list()
    place = tf.tile(place, [tf.shape(visual)[0], 1, 1, 1])
    cells = tf.concat([visual, place], axis=3)
    kernels, biases, of_sentence = [], [], []
    for head in range(1, MUTAN_HEADS + 1):
        name = f"{level}_head{head}"
        kernel, bias = conv_variables(channels + 8, channels, 1, "vis_trans_" + name)
        kernels.append(kernel)
        biases.append(bias)
        term = conv(sentence, channels, 1, "lang_trans_" + name, tf.tanh)
        of_sentence.append(term)

    def project(kernel, bias):
        return convolve(cells, kernel, bias, activation=tf.tanh)

    if differentiable or visual.shape.as_list()[0] != 1:
        of_image = [project(*variables) for variables in zip(kernels, biases)]
        fused = share.weighted_sum(of_image, of_sentence)
    else:
        of_image = [project(tf.concat(kernels, axis=3), tf.concat(biases, axis=0))]
        fused = sums_of_one_image(of_image[0], of_sentence)
    fused = tf.reshape(fused, [-1, rows, columns, channels])
    return l2_normalize(tf.tanh(fused)), of_image


def relation_edges(fused, words, relation, is_word, level):
    """Weigh the ways between the cells of an image and the words of a sentence.

    An edge from one cell to another is as strong as the words make it: how much the
    first attends to each word times how much the word attends to the second. With X the
    cells and A = relation * (Q X) (K words)^T / sqrt(C), the [N, N] adjacency is
    softmax_words(A) softmax_cells(A)^T. It is never needed itself.

    Args:
      fused: float32 [B, H, W, C], unit length.
      words: float32 [B, 1, T, C].
      relation: float32 [B, 1, T], probability of being a relation word.
      is_word: bool [B, 1, T], False at padding.
      level: str, one of LEVELS.

    Returns:
      (to_words, from_cells): float32 [B, N, T], softmax over the words and the cells.

    Variables:
      words_trans_{level}, spa_graph_trans2_{level}: see conv
    """
    _, rows, columns, channels = fused.shape.as_list()
    keys = conv(words, channels, 1, "words_trans_" + level)
    keys = tf.squeeze(keys, axis=1)
    kernel, bias = conv_variables(channels, channels, 1, "spa_graph_trans2_" + level)
    cells = tf.reshape(fused, [-1, rows * columns, channels])
    # (X W + b) K^T = X (K W^T)^T + b K^T: a query for every word, not for every cell.
    affinity = tf.matmul(cells, project_back(keys, kernel), transpose_b=True)
    affinity += tf.reduce_sum(keys * bias, axis=2)[:, tf.newaxis]
    affinity *= relation / channels**0.5  # [B, N, T]
    padding = tf.where(is_word, tf.zeros_like(relation), -1e30 * tf.ones_like(relation))
    return tf.nn.softmax(affinity + padding, axis=2), tf.nn.softmax(affinity, axis=1)


def relation_graph(fused, edges, level, mix=None):
    """Pass messages between the cells along the relation words.

    With X the cells the result is
    l2n(relu(norm(U relu(X + norm(softmax_words(A) softmax_cells(A)^T X))))).

    Args:
      fused: float32 [B, H, W, C], unit length.
      edges: of `relation_edges`.
      level: str, one of LEVELS.
      mix: of `second_pass.mixture`: what a second pass makes of the messages.

    Returns:
      float32 [B, H, W, C], unit length.

    Variables:
      gconv_feat_ln_spa_graph_{level}: see layer_norm
      gconv_update_spa_graph_{level}: see conv
      gconv_update_ln_spa_graph_{level}: see layer_norm
    """
    _, rows, columns, channels = fused.shape.as_list()
    cells = tf.reshape(fused, [-1, rows * columns, channels])
    to_words, from_cells = edges
    messages = tf.matmul(from_cells, cells, transpose_a=True)
    norm = "gconv_feat_ln_spa_graph_" + level
    if mix is None:
        message = layer_norm_of_product(to_words, messages, norm)
    else:
        mixed = mix(tf.matmul(to_words, messages), cells)
        message = layer_norm(mixed[:, tf.newaxis], norm)[:, 0]
    updated = tf.reshape(tf.nn.relu(cells + message), tf.shape(fused))
    updated.set_shape(fused.shape)
    updated = conv(updated, channels, 1, "gconv_update_spa_graph_" + level)
    updated = layer_norm(updated, "gconv_update_ln_spa_graph_" + level)
    return l2_normalize(tf.nn.relu(updated))


def fusion(perceived, reasoned, sentence, place, filters, level):
    """Mix a cell's features, its relations, the sentence and the place.

    relu(W [perceived, reasoned, sentence, place]); the sentence is the same in every
    cell and the place in every image, so their parts are computed once.

    Args:
      perceived, reasoned: float32 [B, H, W, C].
      sentence: float32 [B, 1, 1, C].
      place: float32 [1, H, W, 8].
      filters: int, C_out.
      level: str, one of LEVELS.

    Returns:
      float32 [B, H, W, C_out], not negative.

    Variables:
      fusion_{level}: see conv_variables
    """
    parts = [perceived, reasoned, sentence, place]
    sizes = [part.shape.as_list()[3] for part in parts]
    kernel, bias = conv_variables(sum(sizes), filters, 1, "fusion_" + level)
    kernels = tf.split(kernel, sizes, axis=2)
    biases = [tf.zeros([filters])] * 3 + [bias]
    mixed = [convolve(*part) for part in zip(parts, kernels, biases)]
    return tf.nn.relu(mixed[0] + mixed[1] + (mixed[2] + mixed[3]))


def gated_exchange(features, sentence, level, suffix):
    """Add to one level what the sentence selects from the other two.

    A context g = l2n(W [pooled, sentence]) of the level, pooled over the cells by their
    match with the sentence, opens the gates: l2n(own + sum_other sigmoid(V g) *
    relu(U other)).

    Args:
      features: dict, level -> float32 [B, H, W, C].
      sentence: float32 [B, 1, 1, C_lang], unit length.
      level: str, the level that receives.
      suffix: str, "" in the first round and "_2" in the second; part of the names.

    Returns:
      float32 [B, H, W, C], unit length.

    Variables:
      {key}_{name}gv_f1 with key = spa_graph_key, lang_query, gv_lang: see conv
      lang_feat_{name}_f{1,2}: see conv
      trans_feat_{name}_f{1,2}: see gated_conv
      where name = {level}{suffix}
    """
    own = features[level]
    _, rows, columns, channels = own.shape.as_list()
    name = level + suffix
    cells = tf.reshape(own, [-1, rows * columns, channels])
    kernel, bias = conv_variables(channels, channels, 1, f"spa_graph_key_{name}gv_f1")
    query = conv(sentence, channels, 1, f"lang_query_{name}gv_f1")[:, 0]
    # (F W + b) q = F (W q) + b q; the softmax does not see b q, but b keeps its place.
    scores = tf.matmul(cells, project_back(query, kernel), transpose_b=True)
    scores += tf.reduce_sum(query * bias, axis=2, keepdims=True)
    attention = tf.nn.softmax(scores / channels**0.5, axis=1)  # [B, N, 1]
    pooled = tf.matmul(attention, cells, transpose_a=True)[:, tf.newaxis]
    context = tf.concat([pooled, sentence], axis=3)
    context = conv(context, channels, 1, f"gv_lang_{name}gv_f1")
    context = l2_normalize(context)
    total = own
    others = [other for other in sorted(features) if other != level]
    for number, other in enumerate(others, start=1):
        part = f"{name}_f{number}"
        gate = conv(context, channels, 1, "lang_feat_" + part, tf.sigmoid)
        total += gated_conv(features[other], gate, "trans_feat_" + part)
    return l2_normalize(total)


def read_levels(features, sentence, scope):
    """Let all levels receive at once, twice; then read them with a ConvLSTM.

    Args:
      features, sentence: as in `gated_exchange`.
      scope: str, of the ConvLSTM, which reads from shallow to deep.

    Returns:
      float32 [B, H, W, C].

    Variables:
      those of gated_exchange; {scope}/conv_lstm_cell/...: see conv_lstm
    """
    levels = sorted(features)
    for suffix in ("", "_2"):
        features = {
            level: gated_exchange(features, sentence, level, suffix) for level in levels
        }
    with tf.variable_scope(scope):
        return conv_lstm([features[level] for level in levels], "conv_lstm_cell")


class LSTM_model(variants.Model):
    """The network in the default graph, see `base.Model` for arguments and attributes.

    At most one of loss, refine and second_pass, see `variants`, may be given.
    rnn_size must equal v_emb_dim.

    Example:
      >>> model = LSTM_model(vocab_size=50, H=64, W=64, vf_h=8, vf_w=8)
      >>> model.up.shape.as_list()
      [1, 64, 64, 1]
    """

    NAME = "CMPC_model"
    SIGNATURE = f"{base.SCOPE}/words_parse_1/DW"
    WORD_TABLE = f"{base.SCOPE}/Variable"
    STEP_COUNTER = f"{base.SCOPE}/Variable_1"
    LOSS_WEIGHTS = {"pred": 0.7, "c5": 0.1, "c4": 0.1, "c3": 0.1}  # noqa: RUF012
    WORD_CLASSES = WORD_CLASSES

    @classmethod
    def check(cls, options):
        """Refuse arguments that do not go together, see `base.Model.check`."""
        if options.rnn_size != options.v_emb_dim:
            raise ValueError(
                f"rnn_size {options.rnn_size} and v_emb_dim {options.v_emb_dim} differ"
            )
        super().check(options)

    @classmethod
    def channels(cls, v_emb_dim, mlp_dim):
        """Return the arguments for the channels that a user chooses."""
        return {"v_emb_dim": v_emb_dim, "rnn_size": v_emb_dim, "mlp_dim": mlp_dim}

    @classmethod
    def sizes(cls, shapes):
        """Read the sizes from a checkpoint's shapes, see `base.Model.sizes`."""
        vocab_size, glove_dim = cls.stored_shape(shapes, "Variable", 2)
        channels = cls.stored_shape(shapes, "c5_lateral/DW", 4)[3]
        option = cls.option(shapes)
        scope = cls.RNN["second_pass" in option]
        peephole = cls.stored_shape(shapes, scope + "/conv_lstm_cell/W_ci", 3)
        rows, columns, fused_channels = peephole
        return dict(
            base.grid_sizes(base.STRIDE * rows, base.STRIDE * columns),
            vocab_size=vocab_size,
            glove_dim=glove_dim,
            **cls.channels(channels, fused_channels),
            **option,
        )

    def dropout_channels(self):
        """Return what dropout applies to: word vectors and outputs of the LSTM."""
        return {"emb": self.options.glove_dim, "rnn": self.options.rnn_size}

    def head(self, ids, taps, dropout, share):
        """Find the pixels, see `base.Model.head`.

        Variables:
          {level}_lateral for each of LEVELS: see conv
          those of the functions above
          score_{level} for each of LEVELS, score: see conv
          with a refinement those of `refinement.refine`, with a second pass those of
          `second_pass.mixture` and score_2: see conv
        """
        options = self.options
        words = read(ids, options, dropout)
        visual = {}
        for level in LEVELS:
            lateral = conv(taps[level], options.v_emb_dim, 1, level + "_lateral")
            visual[level] = l2_normalize(lateral)
        # A sentence begins at its first id that is not padding.
        begun = tf.cumsum(tf.cast(tf.not_equal(ids, 0), tf.int32), axis=1)
        is_word = (begun > 0)[:, tf.newaxis]
        classes = word_classes(words)
        entity, attribute, relation, _ = tf.unstack(classes, axis=3)
        entities = sentence_vector(words, entity + attribute)
        necessary = sentence_vector(words, entity + attribute + relation)

        place = tf.constant(coordinates(options.vf_h, options.vf_w)[tf.newaxis])
        differentiable = options.mode == "train"
        perceived, edges, cells, image_parts = {}, {}, {}, []

        def reason(level, mix=None):
            reasoned = relation_graph(perceived[level], edges[level], level, mix)
            parts = perceived[level], reasoned, entities, place
            return fusion(*parts, options.mlp_dim, level)

        for level in LEVELS:
            perceived[level], of_image = mutan_fusion(
                visual[level], place, entities, level, share, differentiable
            )
            edges[level] = relation_edges(
                perceived[level], words, relation, is_word, level
            )
            cells[level] = reason(level)
            image_parts += of_image

        def score_levels():
            return {name: conv(cells[name], 1, 3, "score_" + name) for name in LEVELS}

        # With a refinement the variables are made in another order.
        logits = {} if options.refine else score_levels()
        pred = conv(read_levels(cells, necessary, self.rnn_scope), 1, 3, "score")
        if options.refine:
            logits = dict(score_levels(), base=pred)
            pred, of_image = refinement.refine(pred, taps["im"], options.refine, share)
            image_parts += of_image
        elif options.second_pass:
            logits["base"] = pred
            mix = second_pass.mixture(pred, options.second_pass)
            with tf.variable_scope(tf.get_variable_scope(), reuse=True):
                again = {level: reason(level, mix) for level in LEVELS}
                hidden = read_levels(again, necessary, self.rnn_scope)
            pred += conv(hidden, 1, 3, "score_2")
        logits["pred"] = pred
        return base.Answer(logits, image_parts, {"words_parse": classes[:, 0]})


def __getattr__(name):
    """Find `Predictor` for `from CMPC_model import Predictor`: it lies above."""
    if name == "Predictor":
        from util.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
