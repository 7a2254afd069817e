"""util.core.files: JSON that comes back, whole or not at all."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import types

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


HOLDER = """
import sys
from util.core import files
with files.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_one_process_at_a_time_writes_in_a_folder(tmp_path, killed):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"run \(pid {holder.pid} on .+\): wait"):
            with files.locked(str(folder)):
                raise AssertionError("it is locked")
        if killed:
            holder.kill()
        else:
            holder.stdin.close()
        holder.wait(20)
    with files.locked(str(folder)) as is_left:  # whatever the other one left
        assert is_left == killed
        holder_now = f"{os.getpid()} on {socket.gethostname()}\n"
        assert (folder / ".lock").read_text() == holder_now
        (folder / "new").write_text("")
    assert os.listdir(str(folder)) == ["new"]


def test_lock_can_be_waited_for(tmp_path):
    done = []

    def wait():
        with files.locked(str(tmp_path), waits=True):
            done.append("second")

    with files.locked(str(tmp_path)):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        done.append("first")
    waiting.join(20)
    assert done == ["first", "second"]
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("holder", [f"{os.getppid()} on here", "7 on elsewhere"])
def test_lock_that_names_a_process_of_today_is_stale_all_the_same(tmp_path, holder):
    (tmp_path / ".lock").write_text(holder)
    with files.locked(str(tmp_path)) as is_left:
        assert is_left


@pytest.mark.parametrize("is_windows", [False, True])
def test_file_system_without_locks_is_told_of(
    tmp_path, monkeypatch, capsys, is_windows
):
    class NoLocks(types.ModuleType):
        LOCK_EX = LOCK_NB = 0

        def flock(self, *_):
            raise OSError(errno.ENOLCK, "No locks available")

    no_locks = None if is_windows else NoLocks("fcntl")
    monkeypatch.setitem(sys.modules, "fcntl", no_locks)
    with files.locked(str(tmp_path)) as is_left:
        assert not is_left
    assert f"warning: no locks in {tmp_path}: see to it" in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == []


def test_pipe_is_written_to_and_stays(tmp_path):
    pipe, read = str(tmp_path / "pipe"), []
    os.mkfifo(pipe)

    def take():
        with open(pipe, "rb") as file:
            read.append(file.read())

    reader = threading.Thread(target=take, daemon=True)
    reader.start()
    files.write_json(pipe, [1])
    reader.join(20)
    assert read == [b"[\n  1\n]\n"]
    assert os.listdir(str(tmp_path)) == ["pipe"] and not os.path.isfile(pipe)


def test_full_disk_is_one_line():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
        files.write_json("/dev/full", [1])
    assert not os.path.isfile("/dev/full")


def test_folder_that_a_kill_left_half_goes_an_hour_later(tmp_path):
    hour_ago = time.time() - files.FORGOTTEN_S - 1
    names = [
        "out.99999999.part",
        "out.99999998.part",
        "other.99999999.part",
        "out.part",
    ]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("")
        if name != names[1]:
            os.utime(str(tmp_path / name), (hour_ago, hour_ago))
    with files.whole_folder(str(tmp_path / "out")) as folder:
        open(os.path.join(folder, "new"), "w").close()
    assert sorted(os.listdir(str(tmp_path))) == sorted(["out", *names[1:]])
    assert os.listdir(str(tmp_path / "out")) == ["new"]


def test_young_parts_of_a_shared_folder_stay(tmp_path):
    old, young = (tmp_path / f"{name}.99999999.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("")
    hour_ago = time.time() - files.FORGOTTEN_S - 1
    os.utime(str(old), (hour_ago, hour_ago))
    files.remove_parts(str(tmp_path), is_shared=True)
    assert os.listdir(str(tmp_path)) == [young.name]
    files.remove_parts(str(tmp_path))
    assert os.listdir(str(tmp_path)) == []


def test_a_lock_leaves_no_folder_where_nothing_came_of_it(tmp_path):
    with pytest.raises(UserError, match="refused"):
        with files.locked(str(tmp_path / "a" / "b")):
            raise UserError("refused")
    assert os.listdir(str(tmp_path)) == []


def test_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[")
    with open(str(path), "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="a.json has 1099511627776 bytes, more than"):
        files.read_json(str(path))


@pytest.mark.parametrize("text", ["[" * 10**6, "7" * 10**6, "[-" + "7" * 10**5 + "]"])
def test_deep_json_and_huge_numbers_are_refused_at_once(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="a.json is damaged: .*(recursion|digits)"):
        files.read_json(str(path))


def test_key_that_stands_twice_is_found_among_many():
    text = ", ".join(f'"{n}": 1' for n in [*range(10**5), 99999])
    with pytest.raises(ValueError, match="99999"):
        files.parse_json("{" + text + "}")
