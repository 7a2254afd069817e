"""util.deploy.store: which files may be read, how long and how many stay."""

import os
import time

import pytest

from util.core.errors import UserError
from util.deploy import store as stores

SHA = "0123456789abcdef" * 4


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    return stores.Store(str(folder))


def put(store, *parts, content=b"x", age=0):
    path = os.path.join(store.folder, *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_only_regular_files_with_names_of_uploads_are_images(store, tmp_path):
    uploaded, example = put(store, SHA, "a b.png"), put(store, "examples", "place.png")
    assert store.check(uploaded) == uploaded and store.check(example) == example
    assert store.check(None) is None
    answer = put(store, "tmpabc", "object.webp")
    assert store.has(answer) and store.has(uploaded)
    private = tmp_path / "private.png"
    private.write_bytes(b"x")
    link, pipe = (os.path.join(store.folder, SHA, name) for name in ("link", "pipe"))
    os.symlink(str(private), link)
    os.mkfifo(pipe)
    folder_link = os.path.join(store.folder, SHA[::-1])
    os.symlink(str(tmp_path), folder_link)
    told = set()
    for path in (
        answer,
        str(private),
        str(tmp_path / "gone.png"),
        os.path.join(store.folder, SHA, "gone.png"),
        os.path.dirname(uploaded),
        store.folder,
        put(store, "loose.png"),
        put(store, SHA, "deep", "a.png"),
        link,
        pipe,
        os.path.join(folder_link, "private.png"),
        os.path.join(store.folder, SHA, "..", SHA, "a b.png"),
        os.path.join(store.folder, "..", "private.png"),
        os.path.relpath(uploaded),
        "file://" + uploaded,
        uploaded + "\0",
        uploaded + "/",
        "",
        5,
    ):
        with pytest.raises(UserError) as caught:
            store.check(path)
        told.add(str(caught.value))
    assert told == {stores.GONE}
    assert not any(map(store.has, (link, pipe, store.folder, str(private))))


def test_old_files_go_whatever_lies_between(store, monkeypatch):
    old = put(store, SHA, "old.png", age=3700)
    stuck = put(store, SHA, "stuck.png", age=3700)
    new = put(store, SHA[::-1], "new.png", age=3500)
    example = put(store, "examples", "place.png", age=3700)
    put(store, "loose", age=3700)
    empty = os.path.join(store.folder, "empty")
    os.mkdir(empty)
    os.utime(empty, (0, 0))
    remove = os.remove

    def remove_but_one(path):
        if path == stuck:
            raise IsADirectoryError(path)
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "remove", remove_but_one)
        store.clean()
    assert not os.path.exists(old) and os.path.exists(new)
    assert os.path.exists(stuck) and os.path.exists(example)
    assert sorted(os.listdir(store.folder)) == sorted([SHA, SHA[::-1], "examples"])
    store.clean()
    assert not os.path.exists(stuck)


def test_all_files_together_are_bounded(store, monkeypatch):
    monkeypatch.setattr(stores, "MAX_KEPT_BYTES", 5 * stores.LEAST_BYTES)
    oldest, older, new = (
        put(store, SHA, f"{age}.png", age=age) for age in (300, 200, 10)
    )
    assert store.make_room(2 * stores.LEAST_BYTES) and os.path.exists(oldest)
    assert store.make_room(3 * stores.LEAST_BYTES)
    assert not os.path.exists(oldest) and os.path.exists(older)
    assert not store.make_room(5 * stores.LEAST_BYTES)
    assert not os.path.exists(older) and os.path.exists(new)
    put(store, SHA, "large.png", content=b"x" * 5 * stores.LEAST_BYTES)
    assert not store.make_room(0)
