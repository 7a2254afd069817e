"""Runs a SavedModel as somebody would who has TensorFlow and none of our code.

Usage: load_saved_model.py FOLDER CALLS.npz RESULTS.npz. CALLS has image_N and
sentences; RESULTS gets "N name of output".
"""

import sys

import numpy as np
import tensorflow

tf = tensorflow.compat.v1


def in_a_session(folder):
    """Load as TensorFlow 1 does; return a function of an image and sentences."""
    session = tf.Session(graph=tf.Graph())
    loaded = tf.saved_model.load(session, ["serve"], folder)
    signature = loaded.signature_def["serving_default"]
    names = {key: tensor.name for key, tensor in signature.outputs.items()}

    def call(image, sentences):
        feed = {
            signature.inputs["image"].name: image,
            signature.inputs["sentences"].name: sentences,
        }
        return session.run(names, feed)

    return call


def as_a_function(folder):
    """Load as TensorFlow 2 does; return a function of an image and sentences."""
    loaded = tensorflow.saved_model.load(folder)
    function = loaded.signatures["serving_default"]

    def call(image, sentences):
        inputs = {
            "image": tensorflow.constant(image),
            "sentences": tensorflow.constant(list(sentences)),
        }
        return {key: value.numpy() for key, value in function(**inputs).items()}

    return call


def main(folder, calls_file, results_file):
    """Run all calls and write the results."""
    call = (as_a_function if tensorflow.executing_eagerly() else in_a_session)(folder)
    with np.load(calls_file) as calls:
        images = [key for key in calls.files if key.startswith("image_")]
        results = {}
        for key in images:
            found = call(calls[key], calls["sentences"])
            number = key.split("_")[1]
            results.update({number + " " + name: x for name, x in found.items()})
    ours = {"CMPC_model", "util", "deeplab_resnet"}.intersection(sys.modules)
    assert not ours, ours
    np.savez(results_file, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
