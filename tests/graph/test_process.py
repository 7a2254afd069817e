"""util.graph.process: what a command does to its process, and an import does not."""

import ctypes
import os
import subprocess
import sys
from unittest import mock

import trainval_model
from util.graph import process
from util.graph.compat import tf
from util.graph.session import new_session


def run(code):
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


def test_a_command_keeps_memory_and_no_eager_mode(monkeypatch):
    libc = mock.Mock()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with tf.Graph().as_default():
        new_session().close()
    assert not libc.mallopt.called
    monkeypatch.setenv("TF_OVERRIDE_GLOBAL_THREADPOOL", "0")
    process.own_process()
    assert os.environ["TF_OVERRIDE_GLOBAL_THREADPOOL"] == "1"
    assert not tf.executing_eagerly() and not tf.control_flow_v2_enabled()
    settings = dict(call[0] for call in libc.mallopt.call_args_list)
    assert settings == {-1: 2**31 - 1, -3: 2**31 - 1, -8: 1}


def test_commands_load_tensorflow_when_they_know_what_to_do():
    folder = os.path.dirname(trainval_model.__file__)
    names = os.listdir(os.path.join(folder, "util"))
    commands = ["build_batches", "trainval_model"] + sorted(
        f"util.{name[:-3]}" for name in names if name.endswith(".py") and name[0] != "_"
    )
    assert "util.benchmark" in commands
    run(f"""
import importlib, sys
for command in {commands}:
    importlib.import_module(command)
    assert "tensorflow" not in sys.modules, command
""")


def test_a_command_starts_without_keras_which_works_all_the_same():
    run("""
import sys
from util.graph.process import own_process
own_process()
assert not [name for name in sys.modules if name.split(".")[0] == "keras"]
import tensorflow
network = tensorflow.keras.Sequential([tensorflow.keras.layers.Dense(2)])
network.build((None, 3))
assert network.count_params() == 8
""")


def test_keras_that_is_there_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", sys)
    with process.without_keras():
        assert sys.modules["keras"] is sys
    assert sys.modules["keras"] is sys
    monkeypatch.delitem(sys.modules, "keras")
    with process.without_keras():
        assert sys.modules["keras"] is None
    assert "keras" not in sys.modules


def test_an_import_leaves_the_process_of_a_program_alone():
    run("""
import ctypes
import tensorflow
from tensorflow.python.util import deprecation
changed = []
class Libc:
    def __init__(self, name, *args, **kwargs):
        changed.append(name)
ctypes.CDLL = Libc
import CMPC_model
CMPC_model.Predictor
assert "libc.so.6" not in changed, changed
assert deprecation._PRINT_DEPRECATION_WARNINGS
from util.graph.process import own_process
own_process()
assert "libc.so.6" in changed
assert not deprecation._PRINT_DEPRECATION_WARNINGS
""")
