"""Exporting: a snapshot's network as a model that needs none of our code.

From the image's bytes to masks of its size all is part of the graph, except DenseCRF.
"""

import os
import shutil
import tempfile
from typing import Any, Dict, Tuple

import numpy as np

from util import models
from util.core import files
from util.core.errors import Stopped, UserError
from util.data import text_processing, vocabularies
from util.deploy import image_ops, text_ops
from util.evaluation.eval_tools import compute_mask_IU
from util.graph import checkpoint
from util.graph.compat import temporary_graph, tf
from util.graph.session import new_session, versions
from util.inference.predictor import (
    FOREGROUND,
    is_on_object,
    read_vocabulary,
    vocabulary_of,
)

VERSION = "1"  # TensorFlow Serving wants numbered folders
OPSET = 15  # the newest that onnxruntime 1.10, the last one for Python 3.7, knows
INSTALL = "-m export --format onnx needs tf2onnx and onnxruntime: pip install -e "
INSTALL += "'.[export]'"
# What the check of an ONNX model allows: sums in another order.
MOST_DIFFERENCE, LEAST_IOU = 1e-3, 0.999
CHECKED_SIZE = 97, 61  # of its image: odd, and of no network's shape
WORD_RULES = {
    text_processing.ASCII: "runs of ASCII letters, digits and _ are words, in lower "
    "case; so are the runs between them, with their blanks; not a final full stop",
    text_processing.UNICODE: "runs of letters, marks and numbers of every alphabet and "
    "_ are words, in lower case, in NFC; so are the runs between them, without "
    "blanks; not a final full stop",
}

INPUTS = {
    "image": "uint8 [rows, columns, 3], RGB, upright",
    "sentences": "string [B], UTF-8, B above 0, all about the image",
    "ids": "int32 [B, 20], line numbers from 0 in the vocabulary, of a repeated word "
    "the last one; padded in front with 0; of unknown words that of <unk>",
}
OUTPUTS = {
    "mask": "bool [B, rows, columns], true on the object",
    "probability": "float32 [B, rows, columns], of the object",
    "word_weights": "float32 [B, 20, {}], {}: what each word is for; 0 at padding",
    "attention": "float32 [B, rounds, 20], how much each word counts; 0 at padding",
    "ids": "int32 [B, 20], what the sentences were read as",
}


def run(args) -> None:
    """Write a snapshot's network as a SavedModel or for ONNX.

    Args:
      args: options of `trainval_model.py -m export`.

    Raises:
      UserError: missing or bad snapshot or vocabulary, a missing package, or the
        output is there already.
      Stopped: the ONNX model does not give what TensorFlow gives.
    """
    checkpoint.require_usable_name(args.output)
    write = {"savedmodel": _write_saved_model, "onnx": _write_onnx}[args.format]
    if args.format == "onnx":
        _import_onnx()
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    model_class, sizes = models.of_snapshot(snapshot, args.model)
    path = args.vocabulary or vocabulary_of(snapshot, args.data)
    words = read_vocabulary(snapshot, path)
    about = {
        "model": model_class.NAME,
        "options": {name: sizes[name] for name in models.OPTIONS if name in sizes},
        "snapshot": snapshot,
        "data_set": args.dataset,
        "format": args.format,
        "network_input": [sizes["H"], sizes["W"], 3],
        "vocabulary_size": sizes["vocab_size"],
        "vocabulary": vocabularies.checksum(path),
        "words": WORD_RULES[text_processing.rule_of(words)],
        "foreground": f"logit >= {FOREGROUND}",
        "not_in_the_graph": ["DenseCRF"],
        "versions": versions(),
    }
    with files.whole_folder(args.output) as folder:
        network = Network(model_class, snapshot, sizes, args.max_pixels)
        about.update(write(network, path, words, folder))
        files.write_json(os.path.join(folder, "model.json"), about)
    print(f"exported: {args.output}")


class Network:
    """Builds the graph from an image and its sentences to the results.

    Args:
      model_class: of the snapshot.
      snapshot: path of a checkpoint.
      sizes: its arguments, see `models.of_snapshot`.
      max_pixels: int, larger images are refused.
    """

    def __init__(self, model_class, snapshot, sizes, max_pixels: int) -> None:
        self._model_class, self._snapshot = model_class, snapshot
        self._sizes, self.max_pixels = sizes, max_pixels
        self.name = model_class.NAME

    def build(self, image, ids) -> Dict[str, Any]:
        """Return name -> tensor, the results as OUTPUTS describes them."""
        size = tf.shape(image, out_type=tf.int64)
        pixels = tf.reduce_prod(size[:2])
        is_right = (pixels > 0) & (pixels <= self.max_pixels)
        message = f"the image must have 1 to {self.max_pixels} pixels; rows, columns, "
        message += "channels:"
        check = tf.Assert(is_right, [message, size])
        with tf.control_dependencies([check]):
            image = tf.identity(image)
        fitted = image_ops.fit_image(image, self._sizes["H"], self._sizes["W"])
        im = image_ops.to_network_input(fitted)[tf.newaxis]
        # TensorFlow 2 warns of each reference variable in a SavedModel.
        with tf.variable_scope(tf.get_variable_scope(), use_resource=True):
            model = self._model_class(
                batch_size=None,
                num_images=1,
                mode="eval",
                num_steps=text_processing.MAX_WORDS,
                inputs={"words": ids, "im": im},
                **self._sizes,
            )
        rows, columns, _ = tf.unstack(size)
        found = is_on_object(model.up[..., 0])
        probability = model.sigm[..., 0]
        results = {
            "mask": image_ops.restore_mask(found, rows, columns),
            "probability": image_ops.resize_and_crop(probability, rows, columns),
        }
        if self._model_class.WORD_CLASSES:
            is_word = tf.cast(tf.not_equal(ids, 0), tf.float32)[..., tf.newaxis]
            results["word_weights"] = model.words_parse * is_word
        if model.attention is not None:
            results["attention"] = tf.identity(model.attention)
        return results

    def describe(self, outputs) -> Dict[str, str]:
        """Return name -> what model.json says of it, of results of `build`."""
        classes = self._model_class.WORD_CLASSES
        return {
            name: OUTPUTS[name].format(len(classes), ", ".join(classes))
            for name in outputs
        }

    def session(self):
        """Open a session of the default graph, with the snapshot's weights."""
        session = new_session()
        with checkpoint.closed_on_error(session):
            self._model_class.load(session, self._snapshot)
        return session


def _placeholders(*names) -> Dict[str, Any]:
    make = {
        "image": lambda: tf.placeholder(tf.uint8, [None, None, 3], "image"),
        "sentences": lambda: tf.placeholder(tf.string, [None], "sentences"),
        "ids": lambda: tf.placeholder(
            tf.int32, [None, text_processing.MAX_WORDS], "ids"
        ),
    }
    return {name: make[name]() for name in names}


def _write_saved_model(network: Network, path, vocab_dict, folder) -> Dict[str, Any]:
    """Write folder/VERSION with one signature; return what model.json says of it."""
    odd = text_ops.unusable_words(list(vocab_dict))
    with temporary_graph(), tempfile.TemporaryDirectory() as scratch:
        inputs = _placeholders("image", "ids" if odd else "sentences")
        if odd:
            outputs = network.build(**inputs)
        else:
            table_file = os.path.join(scratch, text_processing.VOCABULARY)
            with open(table_file, "w", encoding="utf-8") as file:
                text_ops.write_table(file, vocab_dict)
            ids = text_ops.ids(inputs["sentences"], table_file, vocab_dict)
            outputs = dict(network.build(inputs["image"], ids), ids=ids)
        with network.session() as session:
            _save(session, os.path.join(folder, VERSION), inputs, outputs)
    if odd:
        print(f"the model takes ids: no sentence could hold the word {odd[0]!r}")
    return _signature(network, inputs, outputs, max_pixels=network.max_pixels)


def _save(session, path, inputs, outputs):
    builder = tf.saved_model.Builder(path)
    signature = tf.saved_model.predict_signature_def(inputs, outputs)
    try:
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.tag_constants.SERVING],
            {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature},
            assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.tables_initializer(),
            clear_devices=True,
            strip_default_attrs=True,
        )
        builder.save()
    except tf.errors.OpError as error:
        raise UserError(f"cannot write {path}: {error.message}") from error


def _signature(network, inputs, outputs, **more) -> Dict[str, Any]:
    return dict(
        inputs={name: INPUTS[name] for name in inputs},
        outputs=network.describe(outputs),
        **more,
    )


def _import_onnx() -> Tuple[Any, Any]:
    """Return the modules tf2onnx and onnxruntime.

    Raises:
      UserError: one is not installed.
    """
    try:
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise UserError(INSTALL) from error
    return tf2onnx, onnxruntime


def _write_onnx(network: Network, path, vocab_dict, folder) -> Dict[str, Any]:
    """Write the model and its vocabulary; return what model.json says of it."""
    tf2onnx, onnxruntime = _import_onnx()
    with temporary_graph() as graph:
        inputs = _placeholders("image", "ids")
        outputs = {
            name: tf.identity(tensor, name)
            for name, tensor in network.build(**inputs).items()
        }
        with network.session() as session:
            frozen = tf.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), list(outputs)
            )
            fed = _random_feed(len(vocab_dict))
            feed = {tensor: fed[name] for name, tensor in inputs.items()}
            wanted = session.run(outputs, feed)
    model_file = os.path.join(folder, "model.onnx")
    names = {tensor.name: name for name, tensor in {**inputs, **outputs}.items()}
    tf2onnx.convert.from_graph_def(
        frozen,
        name=network.name,
        input_names=[tensor.name for tensor in inputs.values()],
        output_names=[tensor.name for tensor in outputs.values()],
        opset=OPSET,
        custom_op_handlers={"EuclideanNorm": (_convert_length, ["ReduceL2"])},
        tensors_to_rename=names,
        output_path=model_file,
    )
    shutil.copyfile(path, os.path.join(folder, text_processing.VOCABULARY))
    session = onnxruntime.InferenceSession(
        model_file, providers=["CPUExecutionProvider"]
    )
    checked = _compare(wanted, dict(zip(outputs, session.run(list(outputs), fed))))
    return _signature(network, inputs, outputs, opset=OPSET, checked=checked)


def _convert_length(graph, node, name, arguments) -> None:
    """Convert the length of vectors, which tf2onnx does not know; it calls this."""
    axes = np.ravel(node.inputs[1].get_tensor_value())
    graph.remove_input(node, node.input[1], 1)
    node.set_attr("axes", axes.tolist())
    node.set_attr("keepdims", node.get_attr_value("keep_dims"))
    del node.attr["keep_dims"]


def _random_feed(vocab_size: int) -> Dict[str, np.ndarray]:
    """Draw an image and sentences of one word and of the most words."""
    random = np.random.RandomState(1)
    ids = random.randint(1, vocab_size, (2, text_processing.MAX_WORDS))
    ids[0, :-1] = 0
    image = random.randint(0, 256, (*CHECKED_SIZE, 3))
    return {"image": image.astype(np.uint8), "ids": ids.astype(np.int32)}


def _compare(wanted, found) -> Dict[str, float]:
    """Print and return how far ONNX agrees with TensorFlow.

    Raises:
      Stopped: not far enough.
    """
    difference = np.abs(wanted["probability"] - found["probability"]).max()
    intersection, union = compute_mask_IU(wanted["mask"], found["mask"])
    iou = intersection / union if union else 1.0
    print(
        f"onnxruntime and TensorFlow on a random image: IoU of the masks {iou:.6f}, "
        f"largest difference of a probability {difference:.1e}"
    )
    if not (difference <= MOST_DIFFERENCE and iou >= LEAST_IOU):
        raise Stopped("the ONNX model does not give these masks: nothing was written")
    return {"iou": float(iou), "largest_difference": float(difference)}
