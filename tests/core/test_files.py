"""util.core.files: JSON that comes back, whole or not at all."""

import os

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


@pytest.mark.parametrize(
    "text", ['{"21_1": [1], "2": [], "21_1": [2]}', '[{"21_1": {}, "21_1": {}}]']
)
def test_a_key_twice_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        UserError, match="a.json is damaged: the key '21_1' stands twice"
    ):
        files.read_json(str(tmp_path / "a.json"))


def test_only_what_a_killed_process_of_ours_left_is_removed(tmp_path):
    (tmp_path / "a.npz.99999999.part").write_text("no process has this number")
    (tmp_path / f"b.npz.{os.getppid()}.part").write_text("this one is at work")
    for name in ("film.part", "film.12.part.txt", "12.part"):
        (tmp_path / name).write_text("somebody's own")
    (tmp_path / "c.99999999.part").mkdir()
    files.remove_parts(str(tmp_path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "12.part",
        f"b.npz.{os.getppid()}.part",
        "c.99999999.part",
        "film.12.part.txt",
        "film.part",
    ]
    files.remove_parts(str(tmp_path / "none"))


def test_no_process_is_asked_where_asking_would_end_it(tmp_path, monkeypatch):
    part = tmp_path / "a.npz.99999999.part"
    part.write_text("")
    with monkeypatch.context() as windows:
        windows.setattr(files.os, "kill", None)
        windows.setattr(files.os, "name", "nt")
        files.remove_parts(str(tmp_path))
    assert part.exists()


def test_folder_that_a_killed_process_of_the_same_number_left_is_replaced(tmp_path):
    out = tmp_path / "out"
    part = tmp_path / f"out.{os.getpid()}.part"
    part.mkdir()
    (part / "old").write_text("")
    with files.whole_folder(str(out)) as folder:
        open(os.path.join(folder, "new"), "w").close()
    assert os.listdir(str(out)) == ["new"] and not part.exists()


def test_records_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    done, path = [], str(tmp_path / "a.json")
    monkeypatch.setattr(os, "fsync", lambda _: done.append(os.path.exists(path)))
    files.write_json(path, [1])
    assert done == [False, True]  # the file, then the folder with its name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_json_is_read_in_any_encoding_with_or_without_its_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('["é ☃"]'.encode(encoding))
    assert files.read_json(str(tmp_path / "a.json")) == ["é ☃"]
