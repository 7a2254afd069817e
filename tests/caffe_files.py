"""Write .caffemodel files: protobuf's wire format by hand."""

import struct

import numpy as np


def varint(number):
    """Return a whole number of at most 64 bits, 7 bits a byte."""
    number %= 2**64
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number])


def field(number, value):
    """Return a field with a whole number, a text or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array):
    """Return a BlobProto."""
    data = np.asarray(array, "<f4").tobytes()
    shape = field(1, b"".join(map(varint, np.shape(array))))
    return field(7, shape) + field(5, data)


def old_blob(array):
    """Return a BlobProto of 2014, which has four sides."""
    sides = (1,) * (4 - np.ndim(array)) + np.shape(array)
    text = b"".join(field(number, side) for number, side in enumerate(sides, 1))
    return text + field(5, np.asarray(array, "<f4").tobytes())


def layer(name, arrays, kind="Convolution"):
    """Return a field of a net: a LayerParameter with what a real one has around."""
    text = field(1, name) + field(2, kind) + field(3, "below") + field(4, name)
    text += field(6, varint(3 << 3 | 5) + struct.pack("<f", 0.1))  # a rate to learn by
    return field(100, text + b"".join(field(7, blob(array)) for array in arrays))


def old_layer(name, arrays, kind=4):
    """Return a field of a net: a V1LayerParameter."""
    text = field(2, "below") + field(3, name) + field(4, name) + field(5, kind)
    return field(2, text + b"".join(field(6, old_blob(array)) for array in arrays))


def write(path, layers, make=layer):
    """Write a net of layers, {name: arrays}, and return its path."""
    with open(str(path), "wb") as file:
        file.write(field(1, "a net"))
        for name, arrays in layers.items():
            file.write(make(name, arrays))
            file.write(make(name + "_relu", []))
    return str(path)
