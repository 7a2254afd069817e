"""util.core.quiet: noise goes, a real warning comes through."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from util.core import quiet

NOISE = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to",
    "I0000 00:00:1795687979.952602   20468 port.cc:153] oneDNN custom operations are",
    "I0000 00:00:1795687979.952950   20468 cudart_stub.cc:31] Could not find cuda",
    "E0000 00:00:1.5 1 cuda_fft.cc:477] Unable to register cuFFT factory: Attempting",
    "W0000 00:00:1.5 1 computation_placer.cc:177] it is already registered",
]
REAL = [
    "W0000 00:00:1.5 1 gpu_device.cc:2] your GPU's driver is too old",
    "E0000 00:00:1.5 1 cuda_driver.cc:3] failed call to cuInit",
    "/a/b.py:3: UserWarning: something is wrong",
    "Illegal something",
]

TOP = Path(quiet.__file__).resolve().parents[2]
LOADERS = ("tensorflow", "tf2onnx", "keras", "tensorboard")


def said(capfd, lines):
    with quiet.without_noise():
        for line in lines:
            os.write(2, line.encode("ascii") + b"\n")
    return capfd.readouterr().err.splitlines()


def test_noise_goes_and_real_warnings_come_through(capfd):
    assert said(capfd, NOISE + REAL + NOISE) == REAL
    with pytest.raises(ImportError), quiet.without_noise():
        os.write(2, b"why\n")
        raise ImportError
    assert capfd.readouterr().err == "why\n"


def test_who_asks_for_everything_gets_it(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert said(capfd, NOISE) == NOISE


def python(code):
    """Run code in a process of its own, as users do; return (code, out, err)."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(TOP),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return done.returncode, done.stdout, done.stderr


def test_tensorflow_starts_without_a_word():
    code = "from util.graph.compat import tf\nwith tf.Session() as session: "
    code += "print(session.run(tf.constant(1)))"
    assert python(code) == (0, b"1\n", b"")


EVERY_MODULE = """
import importlib, pathlib
for path in sorted(pathlib.Path().glob("util/**/*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts))
import CMPC_model, build_batches, trainval_model
from util.core.errors import UserError
from util.deploy import export
try:
    export._import_onnx()
except UserError:  # not installed
    pass
"""


def test_no_command_says_anything_when_it_loads():
    code, _, told = python(EVERY_MODULE)
    assert (code, told) == (0, b"")


def test_a_crash_on_the_way_is_told():
    code = (
        "import os; from util.core import quiet\nwith quiet.without_noise(): os.abort()"
    )
    done, _, told = python(code)
    assert done == -signal.SIGABRT and b"Fatal Python error: Aborted" in told


def test_process_without_stderr_starts():
    code = "import os; os.close(2); from util.core import quiet\n"
    code += "with quiet.without_noise(): print(1)"
    assert python(code)[:2] == (0, b"1\n")


def test_nothing_else_loads_tensorflow():
    """Else its noise would come with that line."""
    for path in [*TOP.glob("*.py"), *TOP.glob("util/**/*.py"), *TOP.glob("deep*/*.py")]:
        if path.name == "compat.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            loaded = [name for name in names if name.split(".")[0] in LOADERS]
            assert not loaded, f"{path} loads {loaded} when it is imported"
