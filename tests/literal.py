"""CMPC's head as the paper writes it, for one sentence, with no identity applied.

The witness of test_identities.py: every adjacency is built, every convolution is one,
every tensor is concatenated. It owns no variables.
"""

import numpy as np

from util.graph import layers
from util.graph.compat import tf

LEVELS = ("c3", "c4", "c5")


class Head:
    """The tensors of the head.

    Args:
      variables: dict, name below text_objseg/ -> tf.Variable.
      taps: dict, level -> float32 [1, H, W, C].
      ids: list of int, the words without padding.
      size: (height, width) of the image.

    Attributes:
      pred, up, up_c3, up_c4, up_c5: as in `LSTM_model`.
    """

    def __init__(self, variables, taps, ids, size):
        self.variables, self.size = variables, size
        words = self.words(ids)
        parse = self.conv(
            tf.nn.relu(self.conv(words, "words_parse_1")), "words_parse_2"
        )
        parse = tf.nn.softmax(parse)
        entity, attribute, relation, unnecessary = tf.split(parse, 4, axis=3)
        everything = entity + attribute + relation + unnecessary
        sentence = self.unit(
            tf.reduce_sum((entity + attribute) * words, 2, keepdims=True)
        )
        necessary = self.unit(
            tf.reduce_sum((everything - unnecessary) * words, 2, keepdims=True)
        )
        fused = {
            level: self.comprehend(taps[level], words, sentence, relation, level)
            for level in LEVELS
        }
        for level in LEVELS:
            score = self.conv(fused[level], "score_" + level)
            setattr(self, "up_" + level, tf.image.resize_bilinear(score, size))
        for suffix in ("", "_2"):
            fused = {
                level: self.exchange(fused, necessary, level, suffix)
                for level in LEVELS
            }
        self.pred = self.conv(self.conv_lstm(fused), "score")
        self.up = tf.image.resize_bilinear(self.pred, size)

    def conv(self, x, name):
        kernel = self.variables[name + "/DW"]
        y = tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME")
        return y + self.variables[name + "/biases"]

    def norm(self, x, name):
        mean = tf.reduce_mean(x, [1, 2, 3], keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, [1, 2, 3], keepdims=True)
        x = (x - mean) * tf.rsqrt(variance + 1e-12)
        return x * self.variables[name + "/gamma"] + self.variables[name + "/beta"]

    @staticmethod
    def unit(x):
        square = tf.reduce_sum(x * x, 3, keepdims=True)
        return x * tf.rsqrt(tf.maximum(square, 1e-12))

    def words(self, ids):
        """Return float32 [1, 1, T, C]."""
        cell_name = "RNN/multi_rnn_cell/cell_0/basic_lstm_cell/"
        kernel = self.variables[cell_name + "kernel"]
        bias = self.variables[cell_name + "bias"]
        cell = hidden = tf.zeros([1, kernel.shape.as_list()[1] // 4])
        outputs = []
        for word in ids:
            vector = self.variables["Variable"][word][tf.newaxis]
            gates = tf.matmul(tf.concat([vector, hidden], 1), kernel) + bias
            i, j, f, o = tf.split(gates, 4, axis=1)
            cell = tf.sigmoid(f + 1) * cell + tf.sigmoid(i) * tf.tanh(j)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            outputs.append(hidden)
        return self.unit(tf.stack(outputs, axis=1)[tf.newaxis])

    def comprehend(self, tap, words, sentence, relation, level):
        visual = self.unit(self.conv(tap, level + "_lateral"))
        _, rows, columns, channels = visual.shape.as_list()
        place = tf.constant(layers.coordinates(rows, columns)[np.newaxis])
        total = 0
        for head in range(1, 6):
            name = f"_trans_{level}_head{head}"
            seen = tf.tanh(self.conv(tf.concat([visual, place], 3), "vis" + name))
            total += seen * tf.tanh(self.conv(sentence, "lang" + name))
        perceived = self.unit(tf.tanh(total))
        queries = self.conv(perceived, "spa_graph_trans2_" + level)
        queries = tf.reshape(queries, [rows * columns, channels])
        keys = self.conv(words, "words_trans_" + level)[0, 0]
        affinity = tf.matmul(queries, keys, transpose_b=True) / channels**0.5
        affinity *= relation[0, :, :, 0]
        adjacency = tf.matmul(
            tf.nn.softmax(affinity, axis=1),
            tf.nn.softmax(affinity, axis=0),
            transpose_b=True,
        )
        cells = tf.reshape(perceived, [rows * columns, channels])
        message = tf.reshape(tf.matmul(adjacency, cells), [1, rows, columns, channels])
        message = self.norm(message, "gconv_feat_ln_spa_graph_" + level)
        updated = tf.nn.relu(perceived + message)
        updated = self.conv(updated, "gconv_update_spa_graph_" + level)
        updated = self.norm(updated, "gconv_update_ln_spa_graph_" + level)
        reasoned = self.unit(tf.nn.relu(updated))
        everywhere = tf.tile(sentence, [1, rows, columns, 1])
        cells = tf.concat([perceived, reasoned, everywhere, place], 3)
        return tf.nn.relu(self.conv(cells, "fusion_" + level))

    def exchange(self, fused, sentence, level, suffix):
        own, name = fused[level], level + suffix
        channels = own.shape.as_list()[3]
        key = self.conv(own, f"spa_graph_key_{name}gv_f1")
        query = self.conv(sentence, f"lang_query_{name}gv_f1")
        scores = tf.reduce_sum(key * query, 3) / channels**0.5
        weights = tf.exp(scores) / tf.reduce_sum(tf.exp(scores))
        pooled = tf.reduce_sum(weights[..., tf.newaxis] * own, [1, 2], keepdims=True)
        context = tf.concat([pooled, sentence], 3)
        context = self.unit(self.conv(context, f"gv_lang_{name}gv_f1"))
        total = own
        for number, other in enumerate([o for o in LEVELS if o != level], start=1):
            part = f"{name}_f{number}"
            gate = tf.sigmoid(self.conv(context, "lang_feat_" + part))
            total += gate * tf.nn.relu(self.conv(fused[other], "trans_feat_" + part))
        return self.unit(total)

    def conv_lstm(self, fused):
        name = "rnn/conv_lstm_cell/"

        def peep(gate, cell):
            return self.variables[name + "W_c" + gate] * cell

        def norm(x, suffix):
            return self.norm(x, name + "LayerNorm" + suffix)

        cell = hidden = tf.zeros_like(fused["c3"])
        for level in LEVELS:
            x = tf.concat([fused[level], hidden], 3)
            kernel = self.variables[name + "kernel"]
            gates = tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME")
            j, i, f, o = tf.split(gates, 4, axis=3)
            j, i = norm(j, ""), norm(i + peep("i", cell), "_1")
            f = norm(f + peep("f", cell), "_2")
            cell = cell * tf.sigmoid(f + 1) + tf.sigmoid(i) * tf.tanh(j)
            o = norm(o + peep("o", cell), "_3")
            cell = norm(cell, "_4")
            hidden = tf.sigmoid(o) * tf.tanh(cell)
        return hidden
