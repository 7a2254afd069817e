"""util.data.caffemodel: what a file holds comes back, and damage ends in one line."""

import re
import struct
import tracemalloc

import caffe_files
import numpy as np
import pytest
from caffe_files import field, varint

from util.core.errors import UserError
from util.data import caffemodel

LAYERS = {
    "conv1": [np.arange(24.0).reshape(2, 3, 2, 2), np.array([0.5, -2])],
    "bn_conv1": [np.array([2.0**-99, 3]), np.array([2.0**99, 5]), np.array([2])],
}


def written(tmp_path, content):
    path = tmp_path / "some.caffemodel"
    path.write_bytes(content)
    return str(path)


def check_read(path):
    found = caffemodel.read(path)
    assert list(found) == list(LAYERS)
    for name, arrays in LAYERS.items():
        assert len(found[name]) == len(arrays)
        for one, array in zip(found[name], arrays):
            np.testing.assert_array_equal(one.reshape(array.shape), np.float32(array))
    return found


def test_layers_with_blobs_are_read(tmp_path):
    found = check_read(caffe_files.write(tmp_path / "a.caffemodel", LAYERS))
    assert found["bn_conv1"][2].shape == (1,)


def test_layers_of_2014_are_read(tmp_path):
    path = tmp_path / "a.caffemodel"
    found = check_read(caffe_files.write(path, LAYERS, caffe_files.old_layer))
    assert found["conv1"][0].shape == (2, 3, 2, 2)
    assert found["bn_conv1"][2].shape == (1, 1, 1, 1)


def messages():
    """Return Caffe's messages as classes of Google's protobuf."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="net.proto", package="caffe")
    kinds = dict(double=1, float=2, int64=3, string=9)
    for name, fields in {  # *: repeated, +: repeated and packed
        "BlobShape": "1 int64 dim +",
        "BlobProto": "5 float data +, 6 float diff +, 7 BlobShape shape ,"
        "8 double double_data +",
        "LayerParameter": "1 string name , 3 string bottom *, 5 float loss_weight *,"
        "7 BlobProto blobs *",
        "NetParameter": "1 string name , 100 LayerParameter layer *",
    }.items():
        message = file.message_type.add(name=name)
        for number, kind, field_name, *mark in map(str.split, fields.split(",")):
            added = message.field.add(name=field_name, number=int(number))
            added.label = 3 if mark else 1
            added.type = kinds.get(kind, 11)
            if kind not in kinds:
                added.type_name = f".caffe.{kind}"
            if mark == ["+"]:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net = pool.FindMessageTypeByName("caffe.NetParameter")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(net)
    return message_factory.MessageFactory(pool).GetPrototype(net)


@pytest.mark.parametrize("data", ["data", "double_data"])
def test_what_googles_own_writer_writes_is_read(tmp_path, data):
    net = messages()(name="a net")
    for name, arrays in LAYERS.items():
        added = net.layer.add(name=name, bottom=["b", "c"], loss_weight=[1, 2])
        for array in arrays:
            stored = added.blobs.add()
            stored.shape.dim.extend(array.shape)
            getattr(stored, data).extend(array.ravel().tolist())
            stored.diff.extend([7, 7])
    found = check_read(written(tmp_path, net.SerializeToString()))
    wanted = np.float32 if data == "data" else np.float64
    assert found["conv1"][0].dtype == wanted


def test_a_blob_without_a_shape_is_a_number(tmp_path):
    number = field(5, struct.pack("<f", 1.5))
    path = written(tmp_path, field(100, field(1, "a") + field(7, number)))
    (found,) = caffemodel.read(path)["a"]
    assert found.shape == () and found == 1.5


# --- Damage


def of(*blobs, name="a"):
    """Return a net of one layer."""
    return field(100, field(1, name) + b"".join(field(7, one) for one in blobs))


def shaped(*sides, data=b""):
    return field(7, field(1, b"".join(map(varint, sides)))) + data


def nested(depth):
    text = b""
    for _ in range(depth):
        text = field(7, text)
    return text


FLOAT = field(5, bytes(4))
GROUP, FIXED_32, FIXED_64 = 3, 5, 1
HOSTILE = {
    "nothing": (b"", "it has no layer with blobs"),
    "zeros": (bytes(1000), "a field has the number 0"),
    "html": (b"<html><body>Quota exceeded</body></html>", ""),
    "no layer": (field(1, "a net"), "it has no layer with blobs"),
    "only relu": (field(100, field(1, "relu")), "it has no layer with blobs"),
    "key without end": (b"\xff" * 30, "a number is cut off or too long"),
    "length of 2**63": (varint(100 << 3 | 2) + varint(2**63), "field 100 is cut off"),
    "length beyond its message": (
        field(100, varint(7 << 3 | 2) + varint(9)) + field(1, "a long name"),
        "field 7 is cut off",
    ),
    "number that is cut off": (varint(8) + b"\x80", "a number is cut off"),
    "8 bytes that are 3": (varint(9 << 3 | FIXED_64) + b"abc", "field 9 is cut off"),
    "group": (varint(9 << 3 | GROUP), "field 9 has wire type 3"),
    "layer as a number": (field(100, 5), "field 100 has wire type 0, not 2"),
    "old layer as a number": (field(2, 5), "field 2 has wire type 0, not 2"),
    "name as a number": (field(100, field(1, 5)), "field 1 has wire type 0, not 2"),
    "blob as a number": (field(100, field(7, 5)), "field 7 has wire type 0, not 2"),
    "side as bytes": (of(field(1, b"a") + FLOAT), "field 1 has wire type 2, not 0"),
    "floats one by one": (
        of(varint(5 << 3 | FIXED_32) + bytes(4)),
        "field 5 has wire type 5, not 2",
    ),
    "floats in two parts": (of(FLOAT + FLOAT), "field 5 is there more than once"),
    "two names": (of(FLOAT) + field(100, 2 * field(1, "b")), "field 1 is there more"),
    "no name": (field(100, field(7, FLOAT)), "a layer has no name"),
    "long name": (of(FLOAT, name="a" * 201), "or one of more than 200 bytes"),
    "name that is no text": (of(FLOAT, name=b"\xff"), "can't decode byte 0xff"),
    "same name": (2 * of(FLOAT), "two layers with blobs are called 'a'"),
    "same name, both forms": (
        of(FLOAT) + field(2, field(4, "a") + field(6, FLOAT)),
        "two layers with blobs are called 'a'",
    ),
    "line in a name": (2 * of(FLOAT, name="a\nb"), r"are called 'a\nb'"),
    "more than its shape": (
        of(shaped(2, 3, data=field(5, bytes(28)))),
        "a blob of 'a' has the shape (2, 3) and 7 numbers",
    ),
    "less than its shape": (
        of(shaped(2**40, 2**40, data=FLOAT)),
        "has the shape (1099511627776, 1099511627776) and 1 numbers",
    ),
    "sides below 0": (of(shaped(-1, -1, data=FLOAT)), "and 1 numbers"),
    "no numbers": (of(shaped(0, 2**63)), "and 0 numbers"),
    "both precisions": (of(FLOAT + field(8, bytes(8))), "shape () and 2 numbers"),
    "half a number": (of(field(5, bytes(6))), "multiple of element size"),
    "side that is cut off": (of(field(7, field(1, b"\x80"))), "a number is cut off"),
    "33 axes": (of(shaped(*[1] * 33, data=FLOAT)), "a blob has more than 32 axes"),
    "many levels": (field(100, field(1, "a") + nested(500)), "shape () and 0 numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path, case):
    content, told = HOSTILE[case]
    path = written(tmp_path, content)
    with pytest.raises(UserError) as info:
        caffemodel.read(path)
    assert re.match(
        f"{re.escape(path)} is damaged or no .caffemodel: .*; download", str(info.value)
    )
    assert told in str(info.value) and "\n" not in str(info.value)


def test_levels_that_are_not_read_cost_nothing(tmp_path):
    """However deep a message of another layer's own parameters is."""
    deep = field(100, field(1, "deep") + field(106, nested(100000)))
    assert list(caffemodel.read(written(tmp_path, deep + of(FLOAT)))) == ["a"]


def test_every_cut_is_found_or_leaves_whole_layers(tmp_path):
    whole = caffe_files.layer("a", [[1, 2]]) + caffe_files.layer("b", [[3], [4]])
    first = len(caffe_files.layer("a", [[1, 2]]))
    for length in range(len(whole)):
        path = written(tmp_path, whole[:length])
        if length == first:
            assert list(caffemodel.read(path)) == ["a"]
            continue
        with pytest.raises(UserError, match="cut off|no layer with blobs"):
            caffemodel.read(path)


def test_random_bytes_are_refused_or_read(tmp_path):
    """No other error, whatever is in a file."""
    random = np.random.RandomState(0)
    sound = caffe_files.layer("a", [[1, 2], [[3]]]) + caffe_files.layer("b", [[3]])
    refused = 0
    for _ in range(300):
        content = bytearray(sound)
        for at in random.randint(len(content), size=random.randint(1, 4)):
            content[at] = random.randint(256)
        try:
            caffemodel.read(written(tmp_path, bytes(content)))
        except UserError:
            refused += 1
    assert 100 < refused < 300


@pytest.mark.parametrize("part", [of(FLOAT), field(100, b""), field(1, 1)])
def test_many_small_fields_cost_neither_memory_nor_time(tmp_path, part):
    path = written(tmp_path, part * (2**23 // len(part)))
    tracemalloc.start()
    with pytest.raises(UserError, match="it has more than 65536 fields"):
        caffemodel.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 + 2**24


def test_large_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "large.caffemodel"
    with open(str(path), "wb") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(UserError, match="more than the 536870912 that are read"):
        caffemodel.read(str(path))
    with pytest.raises(UserError, match="there is no file none.caffemodel"):
        caffemodel.read("none.caffemodel")
