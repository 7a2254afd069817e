"""util.data.mat_files: what SciPy reads, without its crashes and at a known price."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from util.core.errors import UserError
from util.data import mat_files, referent

REFUSED = (UserError, ValueError, zlib.error, struct.error)
VALUES = np.arange(12).reshape(3, 4) % 3


def packed(values, compress=False, **more):
    file = io.BytesIO()
    variables = dict(more, segimg_t=values)
    scipy.io.savemat(file, variables, do_compression=compress)
    return file.getvalue()


def read(path, content):
    path.write_bytes(content)
    return mat_files.find(str(path), "segimg_t").values()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "kind", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"]
)
def test_every_type_is_read(tmp_path, kind, compress):
    content = packed(VALUES.astype(kind), compress, other=np.ones(5), text="left")
    found = read(tmp_path / "a.mat", content)
    np.testing.assert_array_equal(found, VALUES.astype(kind))


def test_numbers_of_a_smaller_type_than_the_matrix(tmp_path):
    # As MATLAB stores whole doubles. The last number is the kind of the numbers.
    content = bytearray(packed(np.zeros((2, 2))))
    place = content.index(struct.pack("<II", 9, 32))
    content[place:] = struct.pack("<HH4B", 2, 4, 5, 0, 7, 0)
    content[132:136] = struct.pack("<I", len(content) - 136)
    found = read(tmp_path / "a.mat", bytes(content))
    np.testing.assert_array_equal(found, [[5, 7], [0, 0]])
    np.testing.assert_array_equal(
        scipy.io.loadmat(io.BytesIO(content))["segimg_t"], found
    )


def test_big_endian(tmp_path):
    name, numbers = b"segimg_t", np.array([[1, 2], [0, 4]], ">i2")
    parts = [(6, struct.pack(">II", 10, 0)), (5, struct.pack(">ii", 2, 2)), (1, name),
             (3, numbers.tobytes("F"))]  # fmt: skip
    body = b"".join(struct.pack(">II", kind, len(x)) + x for kind, x in parts)
    content = b" " * 124 + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body
    np.testing.assert_array_equal(read(tmp_path / "a.mat", content), numbers)
    np.testing.assert_array_equal(
        scipy.io.loadmat(io.BytesIO(content))["segimg_t"], numbers
    )


@pytest.mark.parametrize("compress", [False, True])
def test_any_wrong_byte_is_refused_or_harmless(tmp_path, compress):
    content = packed(VALUES.astype("u1"), compress)
    for place in range(len(content)):
        for value in (0, 1, 127, 255):
            wrong = content[:place] + bytes([value]) + content[place + 1 :]
            try:
                assert read(tmp_path / "a.mat", wrong).size < 100
            except REFUSED:
                pass
    for length in range(len(content)):
        with pytest.raises(REFUSED):
            read(tmp_path / "a.mat", content[:length])


@pytest.mark.parametrize("kind", ["complex", "text", "cell", "sparse"])
def test_what_is_no_matrix_of_real_numbers(tmp_path, kind):
    values = {
        "complex": VALUES * 1j,
        "text": "left",
        "cell": np.array([[1, "a"]], object),
        "sparse": scipy.sparse.csc_matrix(VALUES),
    }[kind]
    with pytest.raises(ValueError, match="segimg_t is no matrix of real numbers"):
        read(tmp_path / "a.mat", packed(values))


@pytest.mark.parametrize("shown", [(9000, 9000), (40, 60)])
def test_masks_that_unpack_to_much_are_not_unpacked(tmp_path, shown):
    """In the first the size is true, in the second it is that of the image."""
    content = packed(np.zeros((9000, 9000), "u1"), compress=True)
    head = zlib.decompress(content[136:])
    head = head.replace(struct.pack("<ii", 9000, 9000), struct.pack("<ii", *shown))
    again = zlib.compress(head)
    path = tmp_path / "a.mat"
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(again)) + again)
    assert path.stat().st_size < 10**5
    one = referent.Referent("it", "it.jpg", ["left"], mask_file=str(path))
    tracemalloc.start()
    with pytest.raises(UserError, match="9000x9000|a.mat is damaged: it is longer"):
        referent._read_mat(one, {(40, 60)})
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
