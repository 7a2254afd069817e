"""Caffe's .caffemodel files, read without Caffe.

Such a file is a NetParameter of Caffe's caffe.proto in protobuf's wire format
(https://protobuf.dev/programming-guides/encoding): fields, each with its number, a
wire type and a value, which may be a message, that is fields again. Only the levels
with names and blobs are looked into, however deep a file nests others.
"""

from typing import Collection, Dict, Iterator, List, NamedTuple, Tuple, Union

import numpy as np

from util.core.errors import UserError
from util.core.files import require_file

MAX_BYTES = 2**29  # of a file; a ResNet-101 has 170 MiB, twice that with its gradients
MAX_FIELDS = 2**16  # of all messages; a ResNet-101 has some thousand
MAX_AXES, MAX_NAME = 32, 200
MAX_VARINT = 10  # bytes of a whole number of 64 bits
VARINT, BYTES = 0, 2  # wire types
WIDTHS = {1: 8, 5: 4}  # wire type -> bytes of its values


class Form(NamedTuple):
    """Numbers of fields: of a net's layers, of a layer's name and blobs."""

    layers: int
    name: int
    blobs: int


FORMS = (Form(100, 1, 7), Form(2, 4, 6))  # LayerParameter, V1LayerParameter
# Fields of a BlobProto; its four sides are of the form without a shape.
SIDES, OTHERS = (1, 2, 3, 4), (5, 7, 8)
FLOATS, SHAPE, DOUBLES = OTHERS
DIMENSIONS = 1  # field of a BlobShape


def read(path: str) -> Dict[str, List[np.ndarray]]:
    """Read the layers of a net.

    Args:
      path: a .caffemodel file, of the form of today or of 2014 (V1).

    Returns:
      Name -> its blobs in their order, read-only float32 or float64 of any values and
      shapes; vectors of V1 are [1, 1, 1, N]. Layers without blobs are left out.

    Raises:
      UserError: the file is missing, too large or damaged, or is something else.
    """
    with open(require_file(path, MAX_BYTES), "rb") as file:
        content = memoryview(file.read())
    try:
        return _Reader().layers(content)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or no .caffemodel: {error}; download it again"
        ) from error


class _Reader:
    """Reads the messages of a file, all of which may have MAX_FIELDS together."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def layers(self, net: memoryview) -> Dict[str, List[np.ndarray]]:
        """Return name -> blobs of a NetParameter, see `read`."""
        found: Dict[str, List[np.ndarray]] = {}
        layers = self._parse(net, {form.layers: BYTES for form in FORMS})
        for form in FORMS:
            for layer in layers[form.layers]:
                wanted = {form.name: BYTES, form.blobs: BYTES}
                fields = self._parse(layer, wanted, once=[form.name])
                if not fields[form.blobs]:
                    continue  # it computes without weights, as a relu does
                name = _name(fields[form.name])
                if name in found:
                    raise ValueError(f"two layers with blobs are called {name!r}")
                found[name] = [self._blob(name, blob) for blob in fields[form.blobs]]
        if not found:
            raise ValueError("it has no layer with blobs")
        return found

    def _blob(self, name: str, message: memoryview) -> np.ndarray:
        wanted = {**dict.fromkeys(SIDES, VARINT), **dict.fromkeys(OTHERS, BYTES)}
        fields = self._parse(message, wanted, once=wanted)
        shape = self._shape(fields)
        arrays = [
            np.frombuffer(data, dtype)
            for field, dtype in ((FLOATS, "<f4"), (DOUBLES, "<f8"))
            for data in fields[field]
            if len(data)
        ]
        size = 1
        for side in shape:
            size *= side
        found = [array.size for array in arrays]
        if found != [size]:
            raise ValueError(
                f"a blob of {name!r} has the shape {shape} and {sum(found)} numbers"
            )
        return arrays[0].reshape(shape)

    def _shape(self, blob: Dict[int, List]) -> Tuple[int, ...]:
        """Return the shape of a blob from its fields, in today's form or that of V1."""
        if blob[SHAPE]:
            wanted = {DIMENSIONS: BYTES}
            packed = self._parse(blob[SHAPE][0], wanted, once=wanted)[DIMENSIONS]
            return _varints(packed[0]) if packed else ()
        if any(blob[side] for side in SIDES):
            return tuple((blob[side] or [0])[0] for side in SIDES)
        return ()

    def _parse(
        self, message: memoryview, wanted: Dict[int, int], once: Collection[int] = ()
    ) -> Dict[int, List]:
        """Return some fields of a message.

        Args:
          message: the bytes.
          wanted: number of a field -> its wire type.
          once: those of the fields that are there once at most.

        Returns:
          Number of each wanted field -> its values in their order.

        Raises:
          ValueError: the message is cut off or is none, or there are more fields, or
            others, than a net has.
        """
        found: Dict[int, List] = {field: [] for field in wanted}
        for field, wire, value in _fields(message):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            if field not in wanted:
                continue
            if wire != wanted[field]:
                raise ValueError(
                    f"field {field} has wire type {wire}, not {wanted[field]}"
                )
            if field in once and found[field]:
                raise ValueError(f"field {field} is there more than once")
            found[field].append(value)
        return found


def _name(values: List[memoryview]) -> str:
    if not values or len(values[0]) > MAX_NAME:
        raise ValueError(f"a layer has no name, or one of more than {MAX_NAME} bytes")
    return bytes(values[0]).decode()


def _varints(packed: memoryview) -> Tuple[int, ...]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
        if len(values) > MAX_AXES:
            raise ValueError(f"a blob has more than {MAX_AXES} axes")
    return tuple(values)


def _fields(message: memoryview) -> Iterator[Tuple[int, int, Union[int, memoryview]]]:
    """Yield (number, wire type, value) of each field of a message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if not field:
            raise ValueError("a field has the number 0")
        if wire == VARINT:
            value, at = _varint(message, at)
            yield field, wire, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in WIDTHS:
            length = WIDTHS[wire]
        else:
            raise ValueError(f"field {field} has wire type {wire}")
        if length > len(message) - at:
            raise ValueError(f"field {field} is cut off")
        yield field, wire, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> Tuple[int, int]:
    """Read a whole number of 7 bits a byte; return it and where it ends."""
    value = 0
    for number, byte in enumerate(message[at : at + MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise ValueError("a number is cut off or too long")
