"""Pickles as data: they run no code, and cost no more than their file is long."""

import io
import pickle
import pickletools
from typing import Any

from util.core import files
from util.core.errors import UserError
from util.data.text_processing import decoded

MAX_BYTES = 2**28  # of a file; those of RefCOCO have 15 MB
# What sharing can make of a byte: the keys that all dicts have are written once.
GROWTH, ROOM = 16, 2**18

# Others make objects, or reserve memory for what may not come.
PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    GLOBAL STACK_GLOBAL INST PERSID BINPERSID
""".split()


class _Opcodes(dict):
    def __missing__(self, code):
        raise pickle.UnpicklingError(f"{chr(code)!r} is no opcode of plain data")


class _PlainUnpickler(pickle._Unpickler):
    """Makes lists, dicts, texts and numbers; refuses all that could run code.

    It is Python's reader in Python. The one in C reserves memory up to the highest
    number of its memo, which nine bytes can set to a gigabyte.
    """

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for the code {module}.{name}")

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it asks for objects outside the file")

    def _load_number(self):
        text = self.readline().strip()
        is_flag = text in (b"00", b"01")
        self.append(text == b"01" if is_flag else files.integer(text.rstrip(b"L")))

    dispatch = _Opcodes(
        (ord(opcode.code), pickle._Unpickler.dispatch[ord(opcode.code)])
        for opcode in pickletools.opcodes
        if opcode.name in PLAIN
    )
    dispatch[pickle.INT[0]] = dispatch[pickle.LONG[0]] = _load_number


def load(path: str) -> Any:
    """Read a pickle of plain data, of whatever protocol.

    Args:
      path: the file.

    Returns:
      Lists (tuples have become some), dicts, texts, numbers, True, False and None;
      byte strings of Python 2 have become text.

    Raises:
      UserError: the file is missing, too large or damaged, would run code, or holds
        far more than its bytes could say without sharing.

    Example:
      >>> with open("some.p", "wb") as file:
      ...     pickle.dump([{"sent": b"left"}, (1, 2.5)], file)
      >>> load("some.p")
      [{'sent': 'left'}, [1, 2.5]]
    """
    with open(files.require_file(path, MAX_BYTES), "rb") as file:
        content = file.read()
    try:
        value = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        return _Copier(GROWTH * len(content) + ROOM).plain(value)
    except Exception as error:  # a damaged pickle raises almost anything
        said = str(error) or "it ends early"
        raise UserError(f"{path} is not a pickle of plain data: {said}") from error


class _Copier:
    """Copies values, whose lists may be shared, into ones whose lists are not.

    Args:
      room: how much may come of it, in values and letters.
    """

    def __init__(self, room: int) -> None:
        self._room = room

    def plain(self, value):
        """Return the copy of a value; byte strings become text."""
        size = len(value) if isinstance(value, (bytes, str)) else 1
        self._room -= 1 + size
        if self._room < 0:
            raise ValueError("its lists or texts are shared so often that they explode")
        if isinstance(value, bytes):
            return decoded(value)
        if isinstance(value, dict):
            return {self.plain(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        if isinstance(value, int) and abs(value) >= 10**files.MAX_DIGITS:
            raise ValueError(f"a number has more than {files.MAX_DIGITS} digits")
        return value
