"""Snapshots of a few variables, for the tests."""

import numpy as np

from util.graph import checkpoint
from util.graph.compat import tf

ZEROS = tf.zeros_initializer()


def make(values):
    """Add variables of these names and shapes, filled with numbers from 1 on."""
    for number, (name, shape) in enumerate(values.items(), 1):
        if isinstance(shape, np.ndarray):
            tf.get_variable(name, initializer=shape)
            continue
        tf.get_variable(name, shape, initializer=tf.constant_initializer(number))


def save(folder, values, step=7, **options):
    """Write a snapshot of such variables and return its path.

    In place of a shape a value may stand.
    """
    path = checkpoint.path(str(folder), "unc", step)
    with tf.Graph().as_default(), tf.Session() as session:
        make(values)
        session.run(tf.global_variables_initializer())
        tf.train.Saver(**options).save(session, path, write_meta_graph=False)
    return path


def load(function, path, values):
    """Load a file into zeros; return what the function says and the values."""
    with tf.Graph().as_default(), tf.Session() as session:
        for name, shape in values.items():
            tf.get_variable(name, shape, initializer=ZEROS)
        session.run(tf.global_variables_initializer())
        said = function(session, path)
        return said, session.run({v.op.name: v for v in tf.global_variables()})
