"""util.graph.session: a precision that cannot be had, and the memory of a process."""

import ctypes
import subprocess
import sys
from unittest import mock

import pytest

from util.core.cli import PRECISIONS
from util.core.errors import UserError
from util.graph import session
from util.graph.compat import tf
from util.graph.session import new_session

MODERN = int(tf.VERSION.split(".")[0]) >= 2


@pytest.fixture(autouse=True)
def nothing(monkeypatch):
    """A machine without GPU and with a CPU that can do nothing special."""
    monkeypatch.setattr(session, "_cpu_flags", lambda: ["fpu"])
    monkeypatch.setattr(tf.test, "is_gpu_available", lambda *args: False)


@pytest.mark.parametrize(
    "precision, needed",
    [
        ("bfloat16", "a CPU with AVX-512 BF16"),
        ("float16", "a GPU of compute capability 7.0"),
        ("tf32", "a GPU of compute capability 8.0"),
    ],
)
def test_what_this_machine_lacks_is_named(precision, needed):
    assert precision in PRECISIONS
    told = f"--precision {precision} needs TensorFlow 2 and {needed}.*use float32"
    with pytest.raises(UserError, match=told):
        new_session(precision=precision)


@pytest.mark.parametrize("flags", [["avx512_bf16"], []])
def test_bfloat16_where_cpu_and_tensorflow_have_it(monkeypatch, flags):
    monkeypatch.setattr(session, "_cpu_flags", lambda: flags)
    if MODERN and flags:
        new_session(precision="bfloat16").close()
    else:
        with pytest.raises(UserError, match="bfloat16"):
            new_session(precision="bfloat16")


def test_float32_is_everywhere():
    with tf.Graph().as_default(), new_session() as session:
        third = session.run(tf.ones([1, 3]) / 3)
    assert third.dtype == "float32" and third.sum() == pytest.approx(1, rel=1e-6)


def test_a_command_keeps_memory_and_no_eager_mode(monkeypatch):
    libc = mock.Mock()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with tf.Graph().as_default():
        new_session().close()
    assert not libc.mallopt.called
    session.own_process()
    assert not tf.executing_eagerly() and not tf.control_flow_v2_enabled()
    settings = dict(call[0] for call in libc.mallopt.call_args_list)
    assert settings == {-1: 2**31 - 1, -3: 2**31 - 1, -8: 1}


def test_an_import_leaves_the_memory_of_a_program_alone():
    code = """
import ctypes
import tensorflow
changed = []
class Libc:
    def __init__(self, name, *args, **kwargs):
        changed.append(name)
ctypes.CDLL = Libc
import CMPC_model
CMPC_model.Predictor
assert "libc.so.6" not in changed, changed
from util.graph.session import own_process
own_process()
assert "libc.so.6" in changed
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
