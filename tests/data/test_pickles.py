"""util.data.pickles: plain data, at the price of the file's length."""

import pickle
import struct
import tracemalloc

import pytest
import tiny_sets

from util.core.errors import UserError
from util.data import pickles, refcoco

GIGABYTE = struct.pack("<Q", 2**30)


def load(path, content):
    """Return what a pickle holds, or the error about it; and the bytes it took."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        return pickles.load(str(path)), tracemalloc.get_traced_memory()[1]
    except UserError as error:
        return str(error), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lists_of_lists(levels, width):
    """Return a pickle of few bytes that holds one list width ** levels times."""
    made = b"\x80\x02]q\x00"
    for level in range(1, levels + 1):
        made += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * width
        made += b"e"
    return made + b"."


@pytest.mark.parametrize("content", [b"]r\0\0\0\2.", b"]p33554432\n.", b"\x80\4]\x94."])
def test_number_in_the_memo_costs_nothing(tmp_path, content):
    value, most = load(tmp_path / "a.p", content)
    assert value == []
    assert most < 10**6


@pytest.mark.parametrize(
    "content, reason",
    [
        (lists_of_lists(7, 10), "shared so often"),
        (
            b"](U\xff" + b"x" * 255 + b"q\x01" + b"h\x01" * 9**5 + b"e.",
            "shared so often",
        ),
        (b"]q\x00h\x00a.", "recursion"),
        (b"\x80\4\x96" + GIGABYTE + b".", "no opcode of plain data"),
        (b"\x80\2T" + GIGABYTE[:4] + b".", "ends early"),
        (b"\x80\4\x8e" + GIGABYTE + b".", "ends early"),
        (b"(lp0\nI" + b"7" * 10**6 + b"\na.", "1000000 digits"),
        (b"(lp0\nL" + b"7" * 10**6 + b"L\na.", "1000000 digits"),
        (pickle.dumps([10**6000], 2), "more than 100 digits"),
        (pickle.dumps({10**6000: 1}, 4), "more than 100 digits"),
        (b"cos\nsystem\n.", "asks for the code os.system"),
    ],
)
def test_small_pickles_take_little_memory(tmp_path, content, reason):
    told, most = load(tmp_path / "a.p", content)
    assert most < 2e7
    assert "a.p is not a pickle of plain data: " in told and reason in told


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    shared = ["left", 1, -(2**70), 2.5, True, False, None, "caf\u00e9 \u2603" * 100]
    value = {"a": shared, "b": [shared, {"c": 10**99}], "d": "x" * 300, "e": {}}
    told, _ = load(tmp_path / "a.p", pickle.dumps(value, protocol))
    assert told == value
    assert [type(one) for one in told["a"]] == [type(one) for one in shared]


def test_many_refs_with_the_keys_and_sentences_of_one(tmp_path):
    (ref,) = tiny_sets.refs()[:1]
    many = [dict(ref, ref_id=number) for number in range(5000)]
    path = tmp_path / "refs(x).p"
    path.write_bytes(tiny_sets.python2_pickle(many, 2))
    assert refcoco.load_refs(str(path)) == many


def test_large_pickle_is_not_read(tmp_path):
    path = tmp_path / "a.p"
    path.write_bytes(b"\0")
    with open(path, "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="a.p has 1099511627776 bytes, more than"):
        pickles.load(str(path))
