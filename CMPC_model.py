"""CMPC: find the pixels a sentence refers to (arXiv:2010.00514).

From top to bottom: words, image, entity perception (MUTAN fusion of sentence and
image), relation reasoning (a graph over the image's cells whose edges are the
relation words), text-guided exchange between three feature levels, a ConvLSTM over the
levels, and the loss. Every sentence of a batch is treated as if it were alone.

Axes: B batch of sentences, P images, T words, H rows, W columns, N = H * W cells,
C channels. Words are kept as images of one row, [B, 1, T, C].
"""

import functools

import deeplab_resnet
from util.graph import layers, losses, optimizer
from util.graph.algebra import project_back, sum_of_products, sums_of_one_image
from util.graph.compat import tf
from util.graph.layers import (
    conv,
    conv_variables,
    convolve,
    dropout_mask,
    l2_normalize,
    layer_norm,
    layer_norm_of_product,
)
from util.graph.recurrent import conv_lstm, lstm
from util.graph.towers import spread
from util.inference.predictor import Predictor

SCOPE = "text_objseg"
LEVELS = ("c5", "c4", "c3")  # deep to shallow: the order of their variables
MUTAN_HEADS = 5
WORD_CLASSES = 4  # entity, attribute, relation, unnecessary
PARSE_CHANNELS = 500
WORD_VECTOR_SCALE = 0.6  # standard deviation, about that of public GloVe vectors
LOSS_WEIGHTS = {"pred": 0.7, "c5": 0.1, "c4": 0.1, "c3": 0.1}


def word_vectors(ids, vocab_size, size, initial=None):
    """Look up the vectors of words.

    Args:
      ids: int32 [B, T], 0 is padding.
      vocab_size, size: int, the table's shape.
      initial: float32 [vocab_size, size], first values; None draws normal noise.

    Returns:
      float32 [B, T, size].

    Variables:
      Variable  [vocab_size, size]
    """
    initializer = (
        tf.random_normal_initializer(stddev=WORD_VECTOR_SCALE)
        if initial is None
        else tf.constant_initializer(initial)
    )
    table = tf.get_variable("Variable", [vocab_size, size], initializer=initializer)
    return tf.nn.embedding_lookup(table, ids)


def word_classes(words):
    """Tell what each word is for.

    Args:
      words: float32 [B, 1, T, C].

    Returns:
      float32 [B, 1, T, 4], probabilities: entity, attribute, relation, unnecessary.

    Variables:
      words_parse_1, words_parse_2: see conv
    """
    hidden = conv(words, PARSE_CHANNELS, 1, "words_parse_1", tf.nn.relu)
    return tf.nn.softmax(conv(hidden, WORD_CLASSES, 1, "words_parse_2"))


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


def mutan_fusion(visual, place, sentence, level, differentiable):
    """Fuse a sentence with every cell of one feature level.

    MUTAN (arXiv:1705.06676) of rank 5: a sum of products of two tanh projections,
    squashed by tanh and scaled to unit length. The image's projections serve all
    its sentences.

    Args:
      visual: float32 [P, H, W, C], unit length.
      place: float32 [P, H, W, 8], see `layers.coordinates`.
      sentence: float32 [B, 1, 1, C], unit length; B is a multiple of P, and the
        sentences of an image stand together.
      level: str, one of LEVELS.
      differentiable: bool, take the way with fast gradients.

    Returns:
      (fused, seen): float32 [B, H, W, C], unit length; and the image's projections,
      which know nothing of the sentence: five float32 [P, H, W, C], or where the sum
      need not be differentiable one [P, H, W, 5 * C].

    Variables:
      vis_trans_{level}_head{1..5}: see conv_variables
      lang_trans_{level}_head{1..5}: see conv
    """
    _, rows, columns, channels = visual.shape.as_list()
    cells = tf.concat([visual, place], axis=3)
    kernels, biases, said = [], [], []
    for head in range(1, MUTAN_HEADS + 1):
        name = f"{level}_head{head}"
        kernel, bias = conv_variables(channels + 8, channels, 1, "vis_trans_" + name)
        kernels.append(kernel)
        biases.append(bias)
        said.append(conv(sentence, channels, 1, "lang_trans_" + name, tf.tanh))

    def project(kernel, bias):
        return convolve(cells, kernel, bias, activation=tf.tanh)

    if differentiable or visual.shape.as_list()[0] != 1:
        seen = [project(*variables) for variables in zip(kernels, biases)]
        fused = sum_of_products(seen, said)
    else:
        seen = [project(tf.concat(kernels, axis=3), tf.concat(biases, axis=0))]
        fused = sums_of_one_image(seen[0], said)
    fused = tf.reshape(fused, [-1, rows, columns, channels])
    return l2_normalize(tf.tanh(fused)), seen


def relation_graph(fused, words, relation, is_word, level):
    """Pass messages between the cells along the relation words.

    An edge from one cell to another is as strong as the words make it: how much the
    first attends to each word times how much the word attends to the second.

    Args:
      fused: float32 [B, H, W, C], unit length.
      words: float32 [B, 1, T, C].
      relation: float32 [B, 1, T], probability of being a relation word.
      is_word: bool [B, 1, T], False at padding.
      level: str, one of LEVELS.

    Returns:
      float32 [B, H, W, C], unit length.

    Variables:
      words_trans_{level}, spa_graph_trans2_{level}: see conv
      gconv_feat_ln_spa_graph_{level}: see layer_norm
      gconv_update_spa_graph_{level}: see conv
      gconv_update_ln_spa_graph_{level}: see layer_norm
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
    to_words = tf.nn.softmax(affinity + padding, axis=2)
    from_cells = tf.nn.softmax(affinity, axis=1)
    # The [N, N] adjacency is to_words times from_cells: it is never needed itself.
    messages = tf.matmul(from_cells, cells, transpose_a=True)
    message = layer_norm_of_product(
        to_words, messages, "gconv_feat_ln_spa_graph_" + level
    )
    updated = tf.reshape(tf.nn.relu(cells + message), tf.shape(fused))
    updated.set_shape(fused.shape)
    updated = conv(updated, channels, 1, "gconv_update_spa_graph_" + level)
    updated = layer_norm(updated, "gconv_update_ln_spa_graph_" + level)
    return l2_normalize(tf.nn.relu(updated))


def fusion(perceived, reasoned, sentence, place, filters, level):
    """Mix what was perceived, what was reasoned, the sentence and the place.

    A 1x1 convolution of all of them side by side; the sentence is the same in every
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

    Args:
      features: dict, level -> float32 [B, H, W, C].
      sentence: float32 [B, 1, 1, C_lang], unit length.
      level: str, the level that receives.
      suffix: str, "" in the first round and "_2" in the second; part of the names.

    Returns:
      float32 [B, H, W, C], unit length.

    Variables:
      {key}_{name}gv_f1 with key = spa_graph_key, lang_query, gv_lang: see conv
      lang_feat_{name}_f{1,2}, trans_feat_{name}_f{1,2}: see conv
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
        offer = conv(features[other], channels, 1, "trans_feat_" + part, tf.nn.relu)
        total += gate * offer
    return l2_normalize(total)


def exchange(features, sentence, suffix):
    """Let all levels receive at once; arguments as in `gated_exchange`.

    Returns:
      dict with the keys of `features`, unit length.
    """
    return {
        level: gated_exchange(features, sentence, level, suffix)
        for level in sorted(features)
    }


class LSTM_model:
    """The network in the default graph; an instance holds its tensors.

    Args:
      batch_size: int, B, sentences at once; None: any number.
      num_steps: int, T, positions of a sentence.
      vf_h, vf_w: int, size of the feature grid in cells: H / 8, W / 8.
      H, W: int, size of image and mask in pixels.
      vf_dim: int, accepted for older callers and not used.
      vocab_size: int, rows of the word table.
      v_emb_dim: int, channels of words and cells; rnn_size must equal it.
      mlp_dim: int, channels after fusion.
      start_lr: float, first learning rate.
      lr_decay_step: int, steps until the learning rate ends at 1e-5.
      rnn_size: int, channels of the sentence LSTM.
      keep_prob_rnn, keep_prob_emb: float in (0, 1], share of LSTM outputs and of word
        vector entries that dropout keeps; only in mode "train".
      optimizer: str, "adam".
      weight_decay: float, see `losses.l2_regularization_loss`.
      mode: str, "eval", or "train" for losses and a training step.
      conv5: bool, train the convolutions of res3 to res5 as well.
      glove_dim: int, length of a word vector.
      glove: float32 [vocab_size, glove_dim], initial word vectors; None: random.
      num_images: int, P, images at once, each with as many of the sentences, which
        stand together; None: one a sentence.
      towers: list of `towers.Tower`, devices that share a batch; none: one device.
      inputs: dict, "words" and "im" -> tensors in place of the placeholders, of the
        same dtypes and static shapes; None: placeholders.

    Attributes:
      words: int32 [B, T] placeholder, ids padded in front with 0.
      im: float32 [P, H, W, 3] placeholder, BGR minus the mean.
      target_fine: float32 [B, H, W, 1] placeholder, the mask, 1 on the object.
      valid_idx: int32 [B, 1] placeholder; may be fed, is not read: the ids tell where
        a sentence begins.
      noise_seed: int64 [2] placeholder, may be fed: what dropout draws from; another
        one each time otherwise.
      visual_feat_c3, _c4, _c5: float32 [P, vf_h, vf_w, 512 / 1024 / 2048], the taps;
        may be fed in place of `im`.
      image_parts: list of float32, see `mutan_fusion`: all that a result takes from
        the image; may be fed in place of `im`.
      words_parse: float32 [B, T, 4], see `word_classes`; meaningless at padding.
      pred: float32 [B, vf_h, vf_w, 1], logits.
      up, up_c5, up_c4, up_c3: float32 [B, H, W, 1], logits of the result and of each
        level before the exchange.
      sigm: float32 [B, H, W, 1], sigmoid of `up`.
      In mode "train" also scalars float32: cls_loss, cls_loss_c5, cls_loss_c4,
        cls_loss_c3, cls_loss_all, reg_loss, cost, learning_rate; target: float32
        [B, vf_h, vf_w, 1], the mask on the grid; train_step: the op.

    Raises:
      ValueError: sizes that do not go together, an unknown mode or optimizer.
    """

    def __init__(
        self,
        batch_size=1,
        num_steps=20,
        vf_h=40,
        vf_w=40,
        H=320,
        W=320,
        vf_dim=2048,
        vocab_size=12112,
        v_emb_dim=1000,
        mlp_dim=500,
        start_lr=0.00025,
        lr_decay_step=800000,
        rnn_size=1000,
        keep_prob_rnn=1.0,
        keep_prob_emb=1.0,
        optimizer="adam",
        weight_decay=0.0005,
        mode="eval",
        conv5=False,
        glove_dim=300,
        glove=None,
        num_images=None,
        towers=(),
        inputs=None,
    ):
        if mode not in ("train", "eval"):
            raise ValueError(f"mode {mode!r} is neither 'train' nor 'eval'")
        if optimizer != "adam":
            raise ValueError(f"optimizer {optimizer!r}: only 'adam' is known")
        if rnn_size != v_emb_dim:
            raise ValueError(f"rnn_size {rnn_size} and v_emb_dim {v_emb_dim} differ")
        if (H, W) != (8 * vf_h, 8 * vf_w):
            raise ValueError(f"H x W {H}x{W} is not 8 x vf_h x vf_w {vf_h}x{vf_w}")
        self.mode = mode
        self.size = H, W
        self.channels = v_emb_dim
        self.fused_channels = mlp_dim
        self.keep_prob_rnn = keep_prob_rnn if mode == "train" else 1.0
        self.keep_prob_emb = keep_prob_emb if mode == "train" else 1.0
        self.image_parts = []

        if inputs is None:
            images = [num_images or batch_size, H, W, 3]
            inputs = {
                "words": tf.placeholder(tf.int32, [batch_size, num_steps]),
                "im": tf.placeholder(tf.float32, images),
            }
        self.words, self.im = inputs["words"], inputs["im"]
        self.target_fine = tf.placeholder(tf.float32, [batch_size, H, W, 1])
        self.valid_idx = tf.placeholder(tf.int32, [batch_size, 1])
        chance = tf.random_uniform([2], maxval=2**31, dtype=tf.int64)
        self.noise_seed = tf.placeholder_with_default(chance, [2])

        def see(inputs):
            return deeplab_resnet.features(inputs["im"])

        def segment(inputs):
            vectors = word_vectors(inputs["words"], vocab_size, glove_dim, glove)
            return self._segment(inputs, self._read(inputs, vectors))

        taps = spread(see, towers, {"im": self.im})
        self.visual_feat_c3 = taps["c3"]
        self.visual_feat_c4 = taps["c4"]
        self.visual_feat_c5 = taps["c5"]
        if not conv5:
            taps = {level: tf.stop_gradient(tap) for level, tap in taps.items()}
        inputs = dict(taps, words=self.words, **self._dropout_masks(glove_dim))
        with tf.variable_scope(SCOPE):
            found = spread(segment, towers, inputs)
            self.words_parse, self.pred = found["words_parse"], found["pred"]
            self.up = self._upsample(self.pred)
            self.sigm = tf.sigmoid(self.up)
            for level in LEVELS:
                setattr(self, "up_" + level, self._upsample(found["score_" + level]))
            if mode == "train":
                self._learn(conv5, weight_decay, start_lr, lr_decay_step, towers)

    @staticmethod
    def calibrate_backbone(session, batches):
        """Make a backbone drawn at random usable, see `deeplab_resnet.calibrate`."""
        deeplab_resnet.calibrate(session, batches)

    def _dropout_masks(self, glove_dim):
        """Return what dropout multiplies with; nothing where it keeps all."""
        masks = {}
        batch_size, steps = self.words.shape.as_list()
        batch_size = batch_size or tf.shape(self.words)[0]
        if self.keep_prob_emb < 1:
            shape = [batch_size, steps, glove_dim]
            masks["emb"] = dropout_mask(shape, self.keep_prob_emb, self.noise_seed)
        if self.keep_prob_rnn < 1:
            shape = [batch_size, steps, self.channels]
            masks["rnn"] = dropout_mask(shape, self.keep_prob_rnn, -self.noise_seed)
        return masks

    def _read(self, inputs, vectors):
        """Return the words' features [B, 1, T, C], unit length, zeros at padding."""
        if "emb" in inputs:
            vectors *= inputs["emb"]
        cell = "RNN/multi_rnn_cell/cell_0/basic_lstm_cell"
        is_word = tf.not_equal(inputs["words"], 0)
        outputs = lstm(vectors, is_word, self.channels, cell)
        if "rnn" in inputs:
            outputs *= inputs["rnn"]
        return l2_normalize(outputs)[:, tf.newaxis]

    def _segment(self, inputs, words):
        """Return dict: words_parse, pred, and the levels' own scores on the grid."""
        visual = {}
        for level in LEVELS:
            lateral = conv(inputs[level], self.channels, 1, level + "_lateral")
            visual[level] = l2_normalize(lateral)
        # A sentence begins at its first id that is not padding.
        ids = tf.cast(tf.not_equal(inputs["words"], 0), tf.int32)
        is_word = (tf.cumsum(ids, axis=1) > 0)[:, tf.newaxis]
        classes = word_classes(words)
        entity, attribute, relation, _ = tf.unstack(classes, axis=3)
        entities = sentence_vector(words, entity + attribute)
        necessary = sentence_vector(words, entity + attribute + relation)

        found, fused = {"words_parse": classes[:, 0]}, {}
        for level in LEVELS:
            fused[level] = self._comprehend(
                visual[level], words, entities, relation, is_word, level
            )
        for level in LEVELS:
            score = "score_" + level
            found[score] = conv(fused[level], 1, 3, score)
        fused = exchange(fused, necessary, suffix="")
        fused = exchange(fused, necessary, suffix="_2")
        with tf.variable_scope("rnn"):
            shallow_to_deep = [fused[level] for level in sorted(fused)]
            hidden = conv_lstm(shallow_to_deep, "conv_lstm_cell")
        found["pred"] = conv(hidden, 1, 3, "score")
        return found

    def _comprehend(self, visual, words, sentence, relation, is_word, level):
        """Perceive the entities and reason about their relations on one level.

        Variables:
          those of `mutan_fusion`, `relation_graph` and `fusion`
        """
        place = layers.coordinates(*visual.shape.as_list()[1:3])
        place = tf.constant(place[tf.newaxis])
        everywhere = tf.tile(place, [tf.shape(visual)[0], 1, 1, 1])
        perceived, seen = mutan_fusion(
            visual, everywhere, sentence, level, differentiable=self.mode == "train"
        )
        self.image_parts += seen
        reasoned = relation_graph(perceived, words, relation, is_word, level)
        return fusion(perceived, reasoned, sentence, place, self.fused_channels, level)

    def _upsample(self, score):
        return tf.image.resize_bilinear(score, self.size)

    def _learn(self, conv5, weight_decay, start_lr, lr_decay_step, towers):
        """Add losses and the training step.

        Variables:
          Variable_1 and Adam's: see `optimizer.adam`
        """
        rows, columns = self.pred.shape.as_list()[1:3]
        self.target = tf.image.resize_bilinear(self.target_fine, [rows, columns])
        self.cls_loss = losses.segmentation_loss(self.up, self.target_fine)
        self.cls_loss_c5 = losses.segmentation_loss(self.up_c5, self.target_fine)
        self.cls_loss_c4 = losses.segmentation_loss(self.up_c4, self.target_fine)
        self.cls_loss_c3 = losses.segmentation_loss(self.up_c3, self.target_fine)
        self.cls_loss_all = (
            LOSS_WEIGHTS["pred"] * self.cls_loss
            + LOSS_WEIGHTS["c5"] * self.cls_loss_c5
            + LOSS_WEIGHTS["c4"] * self.cls_loss_c4
            + LOSS_WEIGHTS["c3"] * self.cls_loss_c3
        )
        trained = [v for v in tf.trainable_variables() if is_trained(v.op.name, conv5)]
        decayed = [v for v in trained if v.op.name.endswith(("/DW", "/weights"))]
        self.reg_loss = losses.l2_regularization_loss(decayed, weight_decay)
        self.cost = self.cls_loss_all + self.reg_loss
        self.learning_rate, self.train_step = optimizer.adam(
            self.cls_loss_all,
            trained,
            decayed,
            weight_decay,
            start_lr,
            lr_decay_step,
            spread=bool(towers),
        )


def is_trained(name, conv5):
    """Tell whether a trainable variable is trained, by its op name.

    Args:
      name: str, op name.
      conv5: bool, also train the convolutions (not the normalisations) of res3 to res5.
    """
    return name.startswith(SCOPE + "/") or (
        conv5 and name.startswith(("res3", "res4", "res5"))
    )


# Predictor(snapshot): one image, many sentences, with this network.
Predictor = functools.partial(Predictor, LSTM_model)
