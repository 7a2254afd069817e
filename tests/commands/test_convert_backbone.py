"""util.convert_backbone: our backbone then computes what the ResNet-101s do."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import caffe_files
import numpy as np
import pytest
import recipe

import deeplab_resnet
from deeplab_resnet import model as backbone
from deeplab_resnet import weights
from util import convert_backbone
from util.convert_backbone import Layer
from util.data import im_processing
from util.graph import checkpoint
from util.graph.compat import tf

TOP = Path(__file__).resolve().parents[2]

# A program of its own, for util.compat turns off what Keras needs. It draws weights of
# a ResNet-101, saves them in Keras' ways and writes down what parts of it compute.
KERAS = """
import numpy as np
import tensorflow

if tensorflow.__version__.startswith("1."):
    tensorflow.compat.v1.enable_eager_execution()
keras = tensorflow.keras
applications = keras.applications
model = applications.ResNet101(weights=None, include_top=False)
random = np.random.RandomState(1)

for layer in model.layers:
    shapes = [weight.shape for weight in layer.get_weights()]
    if layer.name.endswith("_conv"):
        limit = np.sqrt(6 / np.prod(shapes[0][:3]))  # keeps squares behind a relu
        limit /= 64 if layer.name == "conv1_conv" else 1  # those of an image are large
        kernel = random.uniform(-limit, limit, shapes[0])
        layer.set_weights([kernel, random.uniform(-0.5, 0.5, shapes[1])])
    elif layer.name.endswith("_bn"):
        beta, mean = random.uniform(-0.5, 0.5, (2,) + shapes[0])
        variance = 10 ** random.uniform(-6, 1, shapes[0])
        gamma = random.uniform(0.5, 1.5, shapes[0]) * np.sqrt(variance + 1e-5)
        gamma *= 0.3 if layer.name.endswith("_3_bn") else 1  # added 33 times
        layer.set_weights([gamma, beta, mean, variance])

model.save_weights("some.weights.h5")
model.save("whole.h5", include_optimizer=False)


def compute(x, first, last):
    # Its own parts as models are beyond Keras 2: go through the layers by hand.
    known = {id(model.get_layer(first).output): tensorflow.constant(x)}
    for layer in model.layers:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        inputs = [known[id(source)] for source in sources if id(source) in known]
        if inputs and len(inputs) == len(sources):
            known[id(layer.output)] = layer(inputs if len(inputs) > 1 else inputs[0])
        if layer.name == last:
            return known[id(layer.output)].numpy()


found = {}
for name, canvas in np.load("canvases.npz").items():
    x = applications.resnet.preprocess_input(canvas)
    found[name + "_stem"] = compute(x, "conv1_pad", "pool1_pool")
    found[name + "_c3"] = compute(x, "conv1_pad", "conv3_block4_out")
before = "pool1_pool"
for layer in model.layers:
    if layer.name.endswith("_out"):
        channels = model.get_layer(before).output.shape[-1]
        x = random.uniform(-0.5, 1, (1, 6, 7, int(channels))).clip(0).astype("float32")
        found[layer.name + "_of"] = x
        found[layer.name] = compute(x, before, layer.name)
        before = layer.name
np.savez("found.npz", **found)
"""
IMAGE = recipe.image(3, 65, 65)  # uint8 [65, 65, 3], RGB
MOVED = IMAGE[:64, :64][3:, 3:]


def canvas(image):
    """Put 3 pixels of our mean's colour around: what our zeros stand for."""
    rows, columns, _ = image.shape
    around = np.tile(im_processing.MEAN_BGR[::-1], (rows + 6, columns + 6, 1))
    around[3:-3, 3:-3] = image
    return around[np.newaxis].astype(np.float32)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras' weights in files, converted.

    Yields:
      (folder, what parts of Keras' network compute).
    """
    folder = tmp_path_factory.mktemp("keras")
    images = {"image": canvas(IMAGE), "moved": canvas(MOVED)}
    np.savez(str(folder / "canvases.npz"), **images)
    subprocess.run(
        [sys.executable, "-c", KERAS],
        cwd=str(folder),
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1"),
        check=True,
    )
    source, data = str(folder / "some.weights.h5"), str(folder / "data")
    assert convert_backbone.main([source, "--data", data]) == 0
    with np.load(str(folder / "found.npz")) as found:
        yield folder, dict(found)
    shutil.rmtree(str(folder))


def made(folder):
    """Return the path of the checkpoint in the folder of `keras`."""
    return str(folder / "data" / "weights" / "deeplab_resnet_init.ckpt")


@pytest.fixture(scope="module")
def ours(keras):
    """Our backbone with the converted weights.

    Yields:
      (session, image placeholder, features, what loading said).
    """
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.placeholder(tf.float32, [1, 65, 65, 3])
        features = deeplab_resnet.features(image)
        yield (
            session,
            image,
            features,
            weights.load(session, made(keras[0])),
        )


def check_close(found, wanted, tolerance):
    """Compare to float32 rounding of sums that are as large as the largest value."""
    assert found.shape == wanted.shape and wanted.std() > 0.1
    worst = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert worst < tolerance, worst


def test_all_variables_are_there_and_no_others(keras, ours):
    session, _, _, said = ours
    assert said.startswith("backbone: 520 of 520 variables loaded")
    assert checkpoint.shapes(made(keras[0])) == {
        variable.op.name: variable.shape.as_list()
        for variable in weights.variables(session.graph)
    }


def test_blocks_without_dilation_compute_what_keras_does(keras, ours):
    """From the image on; Keras pads a side of 4 n + 1 as SAME does."""
    session, image, features, _ = ours
    x = im_processing.to_network_input(IMAGE)[np.newaxis]
    found = session.run(features["c3"], {image: x})
    check_close(found, keras[1]["image_c3"], 3e-6)


def stem(image):
    """Return our stem's cells of an image."""
    x = tf.constant(im_processing.to_network_input(image)[np.newaxis])
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        x = backbone.conv_bn(x, 64, 7, "conv1", stride=2, activation=tf.nn.relu)
    return tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], "SAME")


def test_padding_moves_the_cells_of_other_sides_by_3_pixels(keras, ours):
    wanted = keras[1]["moved_stem"]
    found = ours[0].run(stem(IMAGE[:64, :64]))
    # The first two cells see the rows and columns that Keras was not given.
    check_close(found[:, 2:, 2:], wanted[:, 2:, 2:], 3e-6)
    assert np.abs(found - wanted).max() > 0.1 * wanted.max()


@pytest.mark.parametrize("block", backbone.BLOCKS, ids=lambda block: block.number)
def test_each_unit_computes_what_keras_does(keras, ours, block):
    """With Keras' strides and no dilation, of which weights know nothing."""
    names, units = [], []
    for number, unit in enumerate(block.units, 1):
        names.append(f"conv{block.number}_block{number}_out")
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            y = backbone.bottleneck(
                tf.constant(keras[1][names[-1] + "_of"]),
                block.number + unit,
                block.width,
                stride=2 if unit == "a" and block.number != "2" else 1,
                rate=1,
                project=unit == "a",
                batch_moments=False,
            )
        units.append(y)
    for name, found in zip(names, ours[0].run(units)):
        check_close(found, keras[1][name], 3e-6)


def test_a_file_with_the_whole_model_gives_the_same(keras):
    values = convert_backbone.backbone_weights(str(keras[0] / "whole.h5"))
    reader = tf.train.NewCheckpointReader(made(keras[0]))
    assert set(values) == set(reader.get_variable_to_shape_map())
    for name, value in values.items():
        np.testing.assert_array_equal(value, reader.get_tensor(name))


# --- One layer by hand


def test_the_epsilons_make_no_difference_however_small_a_variance():
    variance = np.array([0, 1e-30, 1e-8, 1e-5, 1e-3, 1, 1e6])
    random = np.random.RandomState(0)
    y, bias, gamma, beta, mean = random.uniform(-2, 2, (5, 7))
    layer = Layer("res2a_branch1", "bn2a_branch1", "conv2_block1_0", (1, 1, 1, 7))
    kernel = random.uniform(-1, 1, layer.shape)
    values = convert_backbone.fold(layer, kernel, bias, gamma, beta, mean, variance)
    assert {value.dtype for value in values.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(
        values.pop("res2a_branch1/weights"), kernel.astype(np.float32)
    )
    ours = {name.split("/")[1]: value for name, value in values.items()}
    scale = ours["gamma"] / np.sqrt(ours["moving_variance"] + 1e-3)
    wanted = gamma / np.sqrt(variance + 1.001e-5)
    np.testing.assert_allclose(scale, wanted, rtol=1e-6)
    found = scale * (y - ours["moving_mean"]) + ours["beta"]
    wanted = wanted * (y + bias - mean) + beta
    # Sums cancel: rounding is that of their largest terms.
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * abs(scale).max())


def test_the_stem_makes_up_for_the_other_mean():
    layer = Layer("conv1", "bn_conv1", "conv1", (7, 7, 3, 1))
    kernel = np.zeros(layer.shape)
    kernel[2, 5] = [[1], [10], [100]]  # blue, green, red
    zero, one = np.zeros(1), np.ones(1)
    values = convert_backbone.fold(layer, kernel, zero, one, zero, zero, one)
    # An image of this colour is 0 for Keras.
    keras_mean = np.array([103.939, 116.779, 123.68])
    seen = np.dot(keras_mean - im_processing.MEAN_BGR, [1, 10, 100])
    np.testing.assert_allclose(values["bn_conv1/moving_mean"], seen, rtol=1e-6)
    assert abs(seen) > 100


# --- Caffe


def caffe_layers(random):
    """Draw the layers of Caffe's network: name -> blobs, float32.

    Variances reach down to where the epsilons differ, and some scale factors are sums.
    """
    found = {}
    for number, layer in enumerate(convert_backbone.layers()):
        rows, columns, inputs, outputs = layer.shape
        limit = np.sqrt(6 / (rows * columns * inputs))
        limit /= 64 if layer.convolution == "conv1" else 1
        kernel = random.uniform(-limit, limit, (outputs, inputs, rows, columns))
        beta, mean = random.uniform(-0.5, 0.5, (2, outputs))
        variance = 10 ** random.uniform(-5, 1, outputs)
        gamma = random.uniform(0.5, 1.5, outputs) * np.sqrt(variance + 1e-3)
        gamma *= 0.3 if layer.convolution.endswith("2c") else 1
        factor = (1, 999.982361)[number % 2]
        moments = [mean * factor, variance * factor, [factor]]
        scale = layer.normalisation.replace("bn", "scale")
        found[layer.convolution] = [np.float32(kernel)]
        found[layer.normalisation] = list(map(np.float32, moments))
        found[scale] = [np.float32(gamma), np.float32(beta)]
    found["fc1_voc12_c0"] = [np.ones((21, 8, 3, 3)), np.zeros(21)]  # DeepLab's own
    return found


@pytest.fixture(scope="module")
def caffe(tmp_path_factory):
    """Caffe's weights at full size, in a file, and converted by the real command.

    Yields:
      (its layers, the path of the checkpoint).
    """
    folder = tmp_path_factory.mktemp("caffe")
    layers = caffe_layers(np.random.RandomState(2))
    source = caffe_files.write(folder / "init.caffemodel", layers)
    command = [sys.executable, "-m", "util.convert_backbone", source, "--data"]
    said = subprocess.check_output(command + [str(folder)], cwd=str(TOP))
    made = str(folder / "weights" / "deeplab_resnet_init.ckpt")
    line = f"{made}: 520 variables of the backbone from {source}\n"
    assert said.decode() == line
    yield layers, made
    shutil.rmtree(str(folder))


def test_values_of_caffe_are_copied_unfolded(caffe):
    layers, made = caffe
    reader = tf.train.NewCheckpointReader(made)
    names = set(reader.get_variable_to_shape_map())
    assert len(names) == 520 and len(layers) == 3 * 104 + 1

    def check(name, wanted, tolerance=0.0):
        names.remove(name)
        np.testing.assert_allclose(reader.get_tensor(name), wanted, rtol=tolerance)

    for name in filter(re.compile("res|conv1").match, layers):
        (kernel,) = layers[name]
        check(name + "/weights", np.moveaxis(kernel, [0, 1], [3, 2]))
    for name in filter(re.compile("bn").match, layers):
        mean, variance, (factor,) = layers[name]
        gamma, beta = layers["scale" + name[2:]]
        check(name + "/gamma", gamma)
        check(name + "/beta", beta)
        rounding = 0 if factor == 1 else 1e-7
        check(name + "/moving_mean", mean / factor, rounding)
        check(name + "/moving_variance", variance / factor, rounding)
    assert not names


def windows(x, size, stride, rate, filling):
    """Return what SAME padding shows a kernel: [H / stride, W / stride, C, size, size].

    Args:
      x: [H, W, C], sides of which `stride` is a divisor.
    """
    reach = rate * (size - 1) + 1
    around = max(reach - stride, 0)
    before = around // 2
    sides = [(before, around - before)] * 2 + [(0, 0)]
    x = np.pad(x, sides, "constant", constant_values=filling)
    rows, columns = (np.subtract(x.shape[:2], reach) // stride + 1).tolist()
    found = np.empty((rows, columns, x.shape[2], size, size))
    for i in range(size):
        for j in range(size):
            part = x[i * rate :: stride, j * rate :: stride]
            found[..., i, j] = part[:rows, :columns]
    return found


def taps_of_caffe(layers, image):
    """Compute the taps from Caffe's arrays as they are, in float64 and with NumPy only.

    Args:
      layers: see `caffe_layers`.
      image: [H, W, 3], BGR minus the mean; sides divisible by 8.

    Returns:
      dict: c3, c4, c5 -> [H / 8, W / 8, C].
    """

    def layer(x, name, stride=1, rate=1):
        about = "_conv1" if name == "conv1" else name[len("res") :]
        (kernel,) = layers[name]
        mean, variance, factor = map(np.float64, layers["bn" + about])
        gamma, beta = layers["scale" + about]
        seen = windows(x, kernel.shape[-1], stride, rate, 0)
        y = np.tensordot(seen, kernel.astype(np.float64), [[2, 3, 4], [1, 2, 3]])
        y = (y - mean / factor) / np.sqrt(variance / factor + 1e-3)
        return y * gamma + beta

    def relu(x):
        return np.maximum(x, 0)

    x = relu(layer(image, "conv1", 2))
    x = windows(x, 3, 2, 1, -np.inf).max((3, 4))
    found = {}
    units = {2: "a b c", 3: "a b1 b2 b3", 5: "a b c"}
    units[4] = " ".join(["a"] + [f"b{number}" for number in range(1, 23)])
    for block, (stride, rate) in {2: (1, 1), 3: (2, 1), 4: (1, 2), 5: (1, 4)}.items():
        for unit in units[block].split():
            name = f"res{block}{unit}_branch"
            step = stride if unit == "a" else 1
            y = relu(layer(x, name + "2a", step))
            y = layer(relu(layer(y, name + "2b", rate=rate)), name + "2c")
            x = relu(y + (layer(x, name + "1", step) if unit == "a" else x))
        found[f"c{block}"] = x
    del found["c2"]
    return found


def test_taps_are_those_of_a_computation_by_hand(caffe):
    layers, made = caffe
    x = im_processing.to_network_input(IMAGE[:48, :64])
    with tf.Graph().as_default(), tf.Session() as session:
        features = deeplab_resnet.features(tf.constant(x[np.newaxis]))
        said = weights.load(session, made)
        found = session.run(features)
    assert said.startswith("backbone: 520 of 520 variables loaded")
    wanted = taps_of_caffe(layers, x)
    for level, channels in (("c3", 512), ("c4", 1024), ("c5", 2048)):
        assert wanted[level].shape == (6, 8, channels)
        check_close(found[level], wanted[level][np.newaxis], 2e-6)


# --- Files that are small, as the blocks are here


@pytest.fixture
def narrow(monkeypatch):
    """Make the network small: two units a block, 2 channels wide."""
    blocks = [b._replace(units=b.units[:2], width=2) for b in backbone.BLOCKS]
    monkeypatch.setattr(backbone, "BLOCKS", blocks)


@pytest.fixture
def arrays(narrow):
    """Layer of Keras -> its arrays by name, in Keras' order."""
    random = np.random.RandomState(0)
    found = {"predictions": {"kernel:0": np.ones((8, 5)), "bias:0": np.ones(5)}}
    for layer in convert_backbone.layers():
        channels = layer.shape[3:]
        found[layer.keras + "_conv"] = {
            "kernel:0": random.normal(size=layer.shape).astype(np.float32),
            "bias:0": random.normal(size=channels).astype(np.float32),
        }
        found[layer.keras + "_bn"] = {
            name + ":0": random.uniform(size=channels).astype(np.float32)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        }
    return found


def write(path, arrays):
    """Write what Keras 2 does with save_weights, and return the path."""
    import h5py

    with h5py.File(str(path), "w") as file:
        file.create_group("conv1_pad").attrs["weight_names"] = []
        for layer, weights in arrays.items():
            group = file.create_group(layer)
            names = [layer + "/" + name for name in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights.values()):
                group[name] = weight
    return str(path)


def test_the_command_tells_what_it_made(arrays, tmp_path, capsys):
    source = write(tmp_path / "resnet.h5", arrays)
    output = tmp_path / "new" / "init.ckpt"
    assert convert_backbone.main([source, "--output", str(output)]) == 0
    line = f"{output}: 145 variables of the backbone from {source}\n"
    assert capsys.readouterr().out == line
    files = ["init.ckpt.data-00000-of-00001", "init.ckpt.index"]
    assert sorted(os.listdir(str(output.parent))) == files
    reader = tf.train.NewCheckpointReader(str(output))
    kernel = reader.get_tensor("res4b1_branch2b/weights")
    wanted = arrays["conv4_block2_2_conv"]["kernel:0"]
    np.testing.assert_array_equal(kernel, wanted)


def test_mistakes_are_told_without_tensorflow():
    code = (
        "import sys; from util import convert_backbone\n"
        "assert convert_backbone.main(['none.h5', '--output', 'none']) == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )
    top = os.path.dirname(os.path.dirname(convert_backbone.__file__))
    subprocess.run([sys.executable, "-c", code], cwd=top, check=True)


def refused(capsys, source, output):
    """Run a command that must fail and leave nothing, and return what it tells."""
    folder = os.path.dirname(str(output))
    before = sorted(os.listdir(folder))
    assert convert_backbone.main([str(source), "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert printed.out == "" and sorted(os.listdir(folder)) == before
    return printed.err


def lose(arrays):
    del arrays["conv5_block2_3_bn"]


def turn(arrays):
    weights = arrays["conv3_block1_1_conv"]
    weights["kernel:0"] = weights["kernel:0"].transpose(0, 1, 3, 2)


def leave_out_biases(arrays):
    del arrays["conv4_block1_1_conv"]["bias:0"]


def lengthen(arrays):
    arrays["conv3_block3_1_conv"] = arrays["conv3_block2_1_conv"]


def spoil(value):
    def change(arrays):
        arrays["conv2_block2_1_bn"]["moving_variance:0"][1] = value

    return change


def make_whole_numbers(arrays):
    weights = arrays["conv1_conv"]
    weights["bias:0"] = weights["bias:0"].astype(int)


@pytest.mark.parametrize(
    "change, told",
    [
        (lose, "it has no layer conv5_block2_3_bn"),
        (turn, "of conv3_block1_1_conv are [(1, 1, 2, 8), (2,)], not [(1, 1, 8, 2), ("),
        (leave_out_biases, "of conv4_block1_1_conv are [(1, 1, 8, 2)], not [(1, 1, 8"),
        (lengthen, "it also has 'conv3_block3_1_conv'"),
        (spoil(np.nan), "conv2_block2_1_bn has numbers that are NaN or infinite"),
        (spoil(np.inf), "conv2_block2_1_bn has numbers that are NaN or infinite"),
        (spoil(1e31), "conv2_block2_1_bn has numbers above 1e+30"),
        (spoil(-1e-6), "conv2_block2_1_bn has a variance below 0"),
        (make_whole_numbers, "conv1_conv is not made of floats"),
    ],
)
def test_weights_of_something_else_are_refused(arrays, change, told, tmp_path, capsys):
    change(arrays)
    source = write(tmp_path / "resnet.h5", arrays)
    error = refused(capsys, source, tmp_path / "init.ckpt")
    assert told in error
    assert "resnet.h5 does not hold Keras' ResNet101" in error and "download" in error


def test_arrays_in_another_file_are_not_read(arrays, tmp_path, capsys):
    import h5py

    source = write(tmp_path / "resnet.h5", arrays)
    other = tmp_path / "other"
    other.write_bytes(bytes(256))
    with h5py.File(source, "r+") as file:
        del file["conv1_conv/conv1_conv/bias:0"]
        space = h5py.h5s.create_simple((64,))
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_external(str(other).encode(), 0, 256)
        group = file["conv1_conv/conv1_conv"].id
        h5py.h5d.create(group, b"bias:0", h5py.h5t.IEEE_F32LE, space, settings)
    error = refused(capsys, source, tmp_path / "init.ckpt")
    assert "conv1_conv lies in another file" in error


def test_damaged_and_missing_files_are_named(arrays, tmp_path, capsys):
    output = tmp_path / "init.ckpt"
    source = write(tmp_path / "resnet.h5", arrays)
    os.truncate(source, os.path.getsize(source) // 2)
    assert "resnet.h5 does not hold" in refused(capsys, source, output)
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    assert "text.h5 does not hold" in refused(capsys, text, output)
    assert "there is no file none.h5" in refused(capsys, "none.h5", output)


def test_h5py_that_is_missing_is_named(arrays, tmp_path, capsys, monkeypatch):
    source = write(tmp_path / "resnet.h5", arrays)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "needs h5py: pip install h5py" in refused(capsys, source, tmp_path / "a")


def test_a_full_disk_leaves_nothing(arrays, tmp_path, capsys):
    source = write(tmp_path / "resnet.h5", arrays)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, limits[1]))
    try:
        error = refused(capsys, source, tmp_path / "init.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in error and "init.ckpt: is the disk full" in error


def test_ctrl_c_leaves_nothing(arrays, tmp_path, monkeypatch):
    source = write(tmp_path / "resnet.h5", arrays)
    save = convert_backbone._save

    def interrupted(values, path):
        save(values, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_backbone, "_save", interrupted)
    output = str(tmp_path / "init.ckpt")
    assert convert_backbone.main([source, "--output", output]) == 130
    assert os.listdir(str(tmp_path)) == ["resnet.h5"]


def test_a_folder_that_is_a_file_is_refused(arrays, tmp_path, capsys):
    source = write(tmp_path / "resnet.h5", arrays)
    output = os.path.join(source, "init.ckpt")
    assert convert_backbone.main([source, "--output", output]) == 2
    assert "cannot write " + output in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["", ".index"])
def test_an_older_checkpoint_is_kept(arrays, ending, tmp_path, capsys):
    source = write(tmp_path / "resnet.h5", arrays)
    older = tmp_path / ("init.ckpt" + ending)
    older.write_text("older")
    error = refused(capsys, source, tmp_path / "init.ckpt")
    assert "init.ckpt is there already" in error and "--output" in error
    assert older.read_text() == "older"


# --- Small files of Caffe's


@pytest.fixture
def blobs(narrow):
    """Name of Caffe's -> its blobs."""
    return caffe_layers(np.random.RandomState(0))


def test_files_of_2014_give_the_same(blobs, tmp_path):
    today = caffe_files.write(tmp_path / "a.caffemodel", blobs)
    old = caffe_files.write(tmp_path / "b.caffemodel", blobs, caffe_files.old_layer)
    wanted = convert_backbone.backbone_weights(today)
    found = convert_backbone.backbone_weights(old)
    assert len(wanted) == 145 and list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def change(name, number, make):
    """Return what changes a blob."""

    def changed(blobs):
        blobs[name][number] = make(np.array(blobs[name][number]))

    return changed


def put(value):
    def make(array):
        array.flat[-1] = value
        return array

    return make


def lose_scale(blobs):
    del blobs["scale3a_branch2b"]


def lose_moment(blobs):
    del blobs["bn2a_branch1"][2]


def add_bias(blobs):
    blobs["conv1"].append(np.zeros(64))


def deepen(blobs):
    blobs["res3b9_branch2a"] = blobs["res3b1_branch2a"]


WRONG_BLOBS = {
    "it has no layer scale3a_branch2b": lose_scale,
    "shapes of bn2a_branch1 are [(8,), (8,)], not [(8,), (8,), (1,)]": lose_moment,
    "the shapes of conv1 are [(64, 3, 7, 7), (64,)], not [(64, 3, 7, 7)]": add_bias,
    "it also has 'res3b9_branch2a'": deepen,
    "the shapes of res2a_branch1 are [(64, 8, 1, 1)], not [(8, 64, 1, 1)]": change(
        "res2a_branch1", 0, lambda kernel: kernel.transpose(1, 0, 2, 3)
    ),
    "the shapes of bn_conv1 are [(64,), (2, 32), (1,)], not": change(
        "bn_conv1", 1, lambda variance: variance.reshape(2, 32)
    ),
    "conv1 has numbers that are NaN or infinite": change("conv1", 0, put(np.nan)),
    "bn_conv1 has numbers that are NaN or infinite": change("bn_conv1", 2, put(np.inf)),
    "scale_conv1 has numbers above 1e+30": change("scale_conv1", 0, put(1e31)),
    "bn_conv1 has a variance below 0": change("bn_conv1", 1, put(-1e-9)),
    "the scale factor of bn_conv1 is 0.0": change("bn_conv1", 2, put(0)),
    "the scale factor of bn_conv1 is -1.0": change("bn_conv1", 2, put(-1)),
    "bn_conv1 has numbers above 1e+30": change("bn_conv1", 2, put(2e-30)),
}


@pytest.mark.parametrize("told", WRONG_BLOBS)
def test_nets_of_something_else_are_refused(blobs, told, tmp_path, capsys):
    WRONG_BLOBS[told](blobs)
    source = caffe_files.write(tmp_path / "a.caffemodel", blobs)
    error = refused(capsys, source, tmp_path / "init.ckpt")
    assert told in error and "take init.caffemodel of DeepLab" in error
    assert "a.caffemodel does not hold Caffe's ResNet-101: " in error


def test_damaged_and_missing_nets_are_named(blobs, tmp_path, capsys):
    output = tmp_path / "init.ckpt"
    source = caffe_files.write(tmp_path / "a.caffemodel", blobs)
    os.truncate(source, os.path.getsize(source) // 2)
    assert "a.caffemodel is damaged or no .caffemodel" in refused(
        capsys, source, output
    )
    twice = caffe_files.write(tmp_path / "b.caffemodel", blobs)
    with open(twice, "ab") as file:
        file.write(caffe_files.layer("conv1", blobs["conv1"]))
    error = refused(capsys, twice, output)
    assert "two layers with blobs are called 'conv1'" in error
    error = refused(capsys, "none.caffemodel", output)
    assert "there is no file none.caffemodel" in error
