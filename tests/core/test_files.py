"""util.core.files: JSON that comes back, whole or not at all."""

import pytest

from util.core import files
from util.core.errors import UserError


def test_json_comes_back(tmp_path):
    path = str(tmp_path / "below" / "a.json")
    value = {"text": "caf\u00e9", "numbers": [1, 0.5], "nothing": None}
    files.write_json(path, value)
    assert files.read_json(path) == value
    content = (tmp_path / "below" / "a.json").read_bytes()
    assert content.startswith(b'{\n  "text": "caf\\u00e9"') and content.endswith(b"}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(str(path), [1])
    with pytest.raises(TypeError):
        files.write_json(str(path), [object()])
    assert files.read_json(str(path)) == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_json_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/a.json: "):
        files.write_json(str(tmp_path / "file" / "a.json"), [])
