"""util.core.npz: the bytes of numpy, and no pickles."""

import io
import zipfile

import numpy as np
import pytest

from util.core import npz
from util.core.errors import UserError

RANDOM = np.random.RandomState(0)
ARRAYS = {
    "image": RANDOM.randint(0, 256, (5, 4, 3)).astype(np.uint8),
    "rows_first": np.eye(3, 4) > 0,
    "columns_first": np.asfortranarray(np.eye(3, 4) > 0),
    "part": RANDOM.uniform(size=(6, 8))[::2, 1:],
    "turned": RANDOM.uniform(size=(2, 3, 4)).transpose(2, 0, 1),
    "text": np.array(["caf\u00e9", "\U0001f431"]),
    "bytes": np.array([b"a", b"bcd"]),
    "list": [1, 2, 3],
    "number": np.int64(7),
    "nothing": np.zeros((0, 3), np.int32),
}


@pytest.mark.parametrize("key", sorted(ARRAYS))
def test_array_has_the_bytes_of_save(key):
    for _ in range(2):
        expected = io.BytesIO()
        np.save(expected, ARRAYS[key])
        assert npz.as_npy(ARRAYS[key]) == expected.getvalue()


def test_file_has_the_bytes_of_savez(tmp_path):
    npz.write(str(tmp_path / "ours.npz"), ARRAYS)
    npz.write(
        str(tmp_path / "again.npz"),
        {key: npz.as_npy(array) for key, array in ARRAYS.items()},
    )
    np.savez(str(tmp_path / "numpys.npz"), **ARRAYS)
    ours, again, numpys = (
        (tmp_path / name).read_bytes()
        for name in ("ours.npz", "again.npz", "numpys.npz")
    )
    assert ours == again == numpys


def test_deflated_files_are_smaller_and_read_alike(tmp_path):
    path = str(tmp_path / "packed.npz")
    zeros = np.zeros((100, 100))
    npz.write(path, dict(ARRAYS, zeros=zeros), deflate=True)
    assert (tmp_path / "packed.npz").stat().st_size < 10000
    with npz.opened(path, "file") as arrays:
        np.testing.assert_array_equal(arrays["zeros"], zeros)
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], array)


def test_objects_are_not_written(tmp_path):
    path = tmp_path / "objects.npz"
    with pytest.raises(ValueError, match="cannot write objects"):
        npz.write(str(path), {"a": np.array([{}], object)})
    assert not path.exists()


@pytest.mark.parametrize("members", [1, 40])
def test_file_that_unpacks_to_gigabytes_is_refused(tmp_path, members):
    path = tmp_path / "packed.npz"
    npy = npz.as_npy(np.zeros(10**6, np.uint8))
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members):
            with archive.open(f"a{number}.npy", "w") as member:
                for _ in range(1200 // members):
                    member.write(npy)
    assert path.stat().st_size < 2 * 10**6
    with pytest.raises(UserError, match="packed.npz .its arrays have 1.* more than"):
        with npz.opened(str(path), "file"):
            pass


def test_file_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_BYTES", 1000)
    path = tmp_path / "large.npz"
    with pytest.raises(UserError, match="cannot write .*large.npz.* more than 1000"):
        npz.write(str(path), {"a": np.zeros(500, np.uint8), "b": np.zeros(500)})
    assert not path.exists()
