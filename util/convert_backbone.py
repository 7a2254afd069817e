"""Make the backbone's first weights from those of Caffe's or Keras' ResNet-101.

deeplab_resnet_init.ckpt, trained to segment images, is hard to get. There are two ways
to a start.

init.caffemodel, in DeepLab's http://liangchiehchen.com/projects/released/
deeplab_aspp_resnet101/prototxt_and_model.zip, is what that checkpoint was made of, by
the word of its publisher. Names, order of colours and mean are the network's; kernels
are turned from OIHW to HWIO, and the sums that Caffe keeps of means and variances are
divided by their scale factor. Caffe normalises with an epsilon of 1e-5, the network
with 1e-3: as in the published start, nothing makes up for that.

Keras serves the same network trained on ImageNet, with its classifier or without
("notop"): https://storage.googleapis.com/tensorflow/keras-applications/resnet/
resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5. The backbone computes what Keras
does with these weights, to float rounding:

- Keras' convolutions add a bias: it is taken from the mean that is taken off next.
- Keras normalises with another epsilon: gamma makes up for it.
- Keras takes another mean off its images: the stem's bias makes up for it.

Images are padded differently. Keras puts 3 pixels and 1 cell around, SAME puts as many
where sides are 4 n + 1, and 2 and 0 in front where they are 4 n, as ours are: each of
our cells then covers what lies 3 pixels further down and right. The padding has the
colour of the mean, ours or Keras', which differ by one level of 255.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from util.core.cli import OneLineParser, command
from util.core.errors import UserError
from util.core.files import require_file
from util.data import caffemodel
from util.data.datasets import backbone_file
from util.data.im_processing import MEAN_BGR

EXAMPLES = """examples:
  python -m util.convert_backbone init.caffemodel
  python -m util.convert_backbone resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5
  python -m util.convert_backbone my_resnet101.h5 --data /mnt/data
"""
# preprocess_input and batch normalisation of keras.applications.resnet.
KERAS_MEAN_BGR = np.array((103.939, 116.779, 123.68))
KERAS_EPSILON = 1.001e-5
CAFFE_KERNEL = re.compile(r"res[2-5][a-z]\d*_branch(1|2[abc])")  # name of a layer
KERAS_BRANCHES = {"1": 0, "2a": 1, "2b": 2, "2c": 3}
LARGEST = 1e30  # number in a file; far larger ones overflow when they are folded
# What h5py raises on damaged files, and we on sound ones of something else.
UNREADABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class Layer(NamedTuple):
    """A convolution and its normalisation.

    Attributes:
      convolution, normalisation: scopes of our variables, and names of Caffe's layers.
      keras: what the names of its two layers in Keras begin with.
      shape: of the kernel, (size, size, C_in, C_out).
    """

    convolution: str
    normalisation: str
    keras: str
    shape: Tuple[int, int, int, int]


def layers() -> Iterator[Layer]:
    """List the layers of the backbone, from its table of blocks."""
    from deeplab_resnet.model import BLOCKS

    yield Layer("conv1", "bn_conv1", "conv1", (7, 7, 3, 64))
    channels = 64
    for block in BLOCKS:
        for number, unit in enumerate(block.units, 1):
            shapes = {
                "1": (1, 1, channels, 4 * block.width),
                "2a": (1, 1, channels, block.width),
                "2b": (3, 3, block.width, block.width),
                "2c": (1, 1, block.width, 4 * block.width),
            }
            if unit != "a":
                del shapes["1"]
            for branch, shape in shapes.items():
                name = f"{block.number}{unit}_branch{branch}"
                keras = f"conv{block.number}_block{number}_{KERAS_BRANCHES[branch]}"
                yield Layer("res" + name, "bn" + name, keras, shape)
            channels = 4 * block.width


def backbone_weights(source: str) -> Dict[str, np.ndarray]:
    """Read weights as those of our backbone.

    Args:
      source: file of one of two forms. .caffemodel: of Caffe's ResNet-101, whatever
        follows its last block. Others: .h5 file with the weights of
        keras.applications.ResNet101, or with the whole model, with or without its top.

    Returns:
      Name -> float32 of the 520 variables in deeplab_resnet/model.py.

    Raises:
      UserError: the file is missing or damaged, or holds something else.
    """
    is_caffe = source.endswith(".caffemodel")
    return weights_of_caffe(source) if is_caffe else weights_of_keras(source)


def weights_of_caffe(source: str) -> Dict[str, np.ndarray]:
    """Read Caffe's weights as they are, see `backbone_weights`."""
    stored = caffemodel.read(source)
    values = {}
    try:
        for layer in layers():
            values.update(_copied(stored, layer))
        more = sorted(filter(CAFFE_KERNEL.fullmatch, stored))
        if more:  # a deeper network has all that ours has, and more
            raise ValueError(f"it also has {more[0]!r}")
    except ValueError as error:
        raise UserError(
            f"{source} does not hold Caffe's ResNet-101: {error}; take init.caffemodel "
            "of DeepLab's deeplab_aspp_resnet101"
        ) from error
    return values


def _copied(stored: Dict[str, List[np.ndarray]], layer: Layer) -> Dict[str, np.ndarray]:
    """Return our five variables of a layer of Caffe's, which is taken out."""
    rows, columns, inputs, outputs = layer.shape
    kernel_shape, vector = (outputs, inputs, rows, columns), (outputs,)
    (kernel,) = _take_blobs(stored, layer.convolution, [kernel_shape])
    mean, variance, (factor,) = _take_blobs(
        stored, layer.normalisation, [vector, vector, (1,)]
    )
    scale = "scale" + layer.normalisation[len("bn") :]
    gamma, beta = _take_blobs(stored, scale, [vector, vector])
    if factor < 1 / LARGEST:
        raise ValueError(f"the scale factor of {layer.normalisation} is {factor}")
    mean, variance = mean / factor, variance / factor
    _check_numbers(layer.normalisation, [mean, variance])
    _check_variance(layer.normalisation, variance)
    kernel = kernel.transpose(2, 3, 1, 0)
    return _variables(layer, kernel, gamma, beta, mean, variance)


def _take_blobs(
    stored: Dict[str, List[np.ndarray]], name: str, shapes: Sequence[Tuple[int, ...]]
) -> List[np.ndarray]:
    """Take a layer of Caffe's out of those that are stored.

    Returns:
      float64 arrays of the shapes.

    Raises:
      ValueError: it is missing, or is not what it should be.
    """
    blobs = stored.pop(name, None)
    if blobs is None:
        raise ValueError(f"it has no layer {name}")
    found = [_without_ones(blob.shape, shape) for blob, shape in zip(blobs, shapes)]
    found += [blob.shape for blob in blobs[len(shapes) :]]
    if found != shapes:
        raise ValueError(f"the shapes of {name} are {found}, not {shapes}")
    arrays = [
        blob.reshape(shape).astype(np.float64) for blob, shape in zip(blobs, shapes)
    ]
    _check_numbers(name, arrays)
    return arrays


def _without_ones(shape: Tuple[int, ...], wanted: Tuple[int, ...]) -> Tuple[int, ...]:
    """Leave out what old files of Caffe's put in front of a vector: 1, 1, 1."""
    more = max(0, len(shape) - len(wanted))
    return shape[more:] if set(shape[:more]) <= {1} else shape


def weights_of_keras(source: str) -> Dict[str, np.ndarray]:
    """Read Keras' weights as those that compute the same, see `backbone_weights`."""
    values = {}
    with _opened(source) as file:
        stored = _stored(file)
        for layer in layers():
            channels = layer.shape[3:]
            kernel, bias = _take(stored, layer.keras + "_conv", [layer.shape, channels])
            moments = _take(stored, layer.keras + "_bn", 4 * [channels])
            values.update(fold(layer, kernel, bias, *moments))
        more = sorted(name for name in stored if name.endswith("_conv"))
        if more:
            raise ValueError(f"it also has {more[0]!r}")
    return values


def fold(
    layer: Layer,
    kernel: np.ndarray,
    bias: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> Dict[str, np.ndarray]:
    """Express a layer of Keras in the variables of ours.

    The variance stays and gamma grows, by a factor from 1 to 10. Making the variance
    itself smaller by the difference of the epsilons would do as well, but near 0 it
    cancels digits and leaves variances below 0.

    Args:
      layer: whose arrays follow.
      kernel: float [size, size, C_in, C_out].
      bias, gamma, beta, mean, variance: float [C_out]; variance is not negative.

    Returns:
      Name -> float32 of our five variables.
    """
    from deeplab_resnet.model import BATCH_NORM_EPSILON

    if layer.convolution == "conv1":
        means = MEAN_BGR - KERAS_MEAN_BGR
        bias = bias + np.einsum("hwio,i->o", kernel, means)
    growth = np.sqrt((variance + BATCH_NORM_EPSILON) / (variance + KERAS_EPSILON))
    return _variables(layer, kernel, gamma * growth, beta, mean - bias, variance)


def _variables(layer, kernel, gamma, beta, mean, variance) -> Dict[str, np.ndarray]:
    """Return name -> float32 of a layer's five variables."""
    values = {
        layer.convolution + "/weights": kernel,
        layer.normalisation + "/gamma": gamma,
        layer.normalisation + "/beta": beta,
        layer.normalisation + "/moving_mean": mean,
        layer.normalisation + "/moving_variance": variance,
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


def _check_numbers(name: str, arrays: List[np.ndarray]) -> None:
    """Refuse numbers that no trained layer has, by a ValueError."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"{name} has numbers that are NaN or infinite")
    if max(np.abs(array).max() for array in arrays) > LARGEST:
        raise ValueError(f"{name} has numbers above {LARGEST}")


def _check_variance(name: str, variance: np.ndarray) -> None:
    if variance.min() < 0:
        raise ValueError(f"{name} has a variance below 0")


@contextlib.contextmanager
def _opened(path: str) -> Iterator:
    """Open an .h5 file; what is wrong with it becomes a UserError."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"reading {path} needs h5py: pip install h5py") from error
    try:
        with h5py.File(require_file(path), "r") as file:
            yield file
    except UNREADABLE as error:
        raise UserError(
            f"{path} does not hold Keras' ResNet101: {error}; download "
            "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5 again"
        ) from error


def _stored(file) -> Dict[str, List]:
    """Return layer -> its arrays, unread and in Keras' order, in whichever layout."""
    if "layers" in file:  # save_weights of Keras 3
        groups = [layer["vars"] for layer in file["layers"].values() if "vars" in layer]
        return {
            group.attrs.get("name", ""): [group[str(n)] for n in range(len(group))]
            for group in groups
        }
    root = file.get("model_weights", file)  # in a file with the whole model
    groups = {name: root[name] for name in root}
    return {
        name: [group[key] for key in group.attrs.get("weight_names", ())]
        for name, group in groups.items()
    }


def _take(
    stored: Dict[str, List], name: str, shapes: Sequence[Tuple[int, ...]]
) -> List[np.ndarray]:
    """Take a layer of Keras' out of those that are stored and read it.

    Returns:
      float64 arrays of the shapes.

    Raises:
      ValueError: it is missing, or is not what it should be.
    """
    weights = stored.pop(name, None)
    if weights is None:
        raise ValueError(f"it has no layer {name}")
    found = [getattr(weight, "shape", None) for weight in weights]
    if found != shapes:
        raise ValueError(f"the shapes of {name} are {found}, not {shapes}")
    if any(weight.external or weight.is_virtual for weight in weights):
        raise ValueError(f"{name} lies in another file")
    if any(weight.dtype.kind != "f" for weight in weights):
        raise ValueError(f"{name} is not made of floats")
    arrays = [weight[()].astype(np.float64) for weight in weights]
    _check_numbers(name, arrays)
    if name.endswith("_bn"):
        _check_variance(name, arrays[3])
    return arrays


def write(values: Dict[str, np.ndarray], output: str) -> None:
    """Write a checkpoint whole, or not at all.

    Args:
      values: variable name -> array.
      output: path without the endings that TensorFlow adds; its folder is made where
        missing.

    Raises:
      UserError: it cannot be written there.
    """
    from util.graph.compat import tf

    folder, name = os.path.split(os.path.abspath(output))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(".part", name + ".", folder) as part:
            _save(values, os.path.join(part, name))
            # By alphabet: the data first, then the index that makes them a checkpoint.
            for file in sorted(os.listdir(part)):
                os.replace(os.path.join(part, file), os.path.join(folder, file))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot write {output}: is the disk full, or the folder protected?"
        ) from error


def _save(values: Dict[str, np.ndarray], checkpoint: str) -> None:
    """Write a checkpoint without making variables first."""
    from util.graph.compat import tf
    from util.graph.session import new_session

    with tf.Graph().as_default() as graph, new_session(graph) as session:
        tensors = [tf.placeholder(value.dtype) for value in values.values()]
        save = tf.raw_ops.SaveV2(
            prefix=checkpoint,
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=tensors,
        )
        session.run(save, dict(zip(tensors, values.values())))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.convert_backbone",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="FILE",
        help=".caffemodel of DeepLab, or .h5 of keras.applications.ResNet101",
    )
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add(
        "--output",
        metavar="CKPT",
        help="checkpoint (default: weights/deeplab_resnet_init.ckpt below --data)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint that the command line asks for, and report it."""
    output = args.output or backbone_file(args.data)
    if os.path.exists(output) or os.path.exists(output + ".index"):
        raise UserError(
            f"{output} is there already, and may be the better one: choose another "
            "--output, or remove it"
        )
    values = backbone_weights(args.weights)
    write(values, output)
    print(f"{output}: {len(values)} variables of the backbone from {args.weights}")
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
