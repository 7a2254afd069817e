"""util.graph.session: a precision that cannot be had, XLA, what a session leaves."""

import gc
import os
import subprocess
import sys
import weakref
from unittest import mock

import numpy as np
import pytest

from util.core.cli import PRECISIONS
from util.core.errors import UserError
from util.graph import products, session
from util.graph.compat import temporary_graph, tf
from util.graph.layers import l2_normalize
from util.graph.session import new_session

GPUS = session.gpus
MODERN = int(tf.VERSION.split(".")[0]) >= 2


@pytest.fixture(autouse=True)
def nothing(monkeypatch):
    """A machine without GPU and with a CPU that can do nothing special."""
    monkeypatch.setattr(session, "_cpu_flags", lambda: ["fpu"])
    monkeypatch.setattr(session, "gpus", list)


class Config:
    """A stand-in for TensorFlow's settings on a machine with GPUs."""

    def __init__(self, *about):
        self.about, self.tf32 = about, []

    def list_physical_devices(self, kind):
        assert kind == "GPU"
        return list(range(len(self.about)))

    def get_device_details(self, number):
        return self.about[number]

    def enable_tensor_float_32_execution(self, use):
        self.tf32.append(use)


def pretend(monkeypatch, *about):
    """Have GPUs in this machine, and a TensorFlow 2 that must make no device yet."""
    config = Config(*about)
    monkeypatch.setattr(session, "gpus", GPUS)
    monkeypatch.setattr(session.tensorflow.config, "experimental", config)
    monkeypatch.setattr(session.tf, "VERSION", "2.21.0")
    monkeypatch.setattr(session.tf.test, "is_gpu_available", None)
    monkeypatch.setattr(session.tf, "Session", mock.Mock())
    return config


def card(*capability, name="NVIDIA H100"):
    return {"device_name": name, "compute_capability": capability}


@pytest.mark.parametrize(
    "capability, able",
    [((9, 0), ["float16", "tf32", "bfloat16"]), ((7, 5), ["float16"]), ((6, 1), [])],
)
def test_a_gpu_says_what_it_can_before_a_device_is_made(monkeypatch, capability, able):
    config = pretend(monkeypatch, card(*capability))
    assert session.gpus() == [("NVIDIA H100", capability)]
    for precision in ("float16", "tf32", "bfloat16"):
        if precision in able:
            with tf.Graph().as_default():
                session.prepare_graph(precision)
                new_session(precision=precision)
                rounded = {"float16": tf.float16, "bfloat16": tf.bfloat16}
                assert products.dtype_of() == rounded.get(precision, tf.float32)
            target, graph, settings = tf.Session.call_args[0]
            assert settings.gpu_options.allow_growth and (target, graph) == ("", None)
            rewrites = settings.graph_options.rewrite_options
            assert rewrites.remapping == rewrites.OFF
        else:
            told = f"--precision {precision} needs TensorFlow 2 and a GPU of compute"
            for work in (session.prepare_graph, new_session):
                with pytest.raises(UserError, match=told):
                    work(precision=precision)
    assert config.tf32 == [precision == "tf32" for precision in able]


def test_a_graph_of_another_precision_is_refused(monkeypatch):
    """Else a network would compute in float32 what is called bfloat16."""
    pretend(monkeypatch, card(9, 0))
    with tf.Graph().as_default():
        with pytest.raises(ValueError, match="not made for bfloat16: see prep"):
            new_session(precision="bfloat16")
        session.prepare_graph("bfloat16")
        with pytest.raises(ValueError, match="not made for tf32"):
            new_session(precision="tf32")


def test_one_able_gpu_is_enough_and_one_that_says_nothing_is_not(monkeypatch):
    pretend(monkeypatch, card(6, 1), {}, card(8, 0))
    session.require_precision("tf32")
    pretend(monkeypatch, {})
    with pytest.raises(UserError, match="capability 8.0"):
        session.require_precision("tf32")


def test_a_cpu_goes_on_fusing_operations(monkeypatch):
    monkeypatch.setattr(session.tf, "Session", mock.Mock())
    new_session()
    _, _, settings = tf.Session.call_args[0]
    rewrites = settings.graph_options.rewrite_options
    assert rewrites.remapping == rewrites.DEFAULT


def test_float32_on_a_gpu_is_exact(monkeypatch):
    config = pretend(monkeypatch, card(9, 0))
    new_session()
    assert config.tf32 == [False]


def test_gpus_of_tensorflow_1_are_asked_with_the_settings_of_a_session(monkeypatch):
    from tensorflow.python.client import device_lib

    told = "device: 0, name: Tesla V100, pci bus id: 0000:00:1e.0, compute capability: "
    devices = [
        mock.Mock(device_type="CPU", physical_device_desc=""),
        mock.Mock(device_type="GPU", physical_device_desc=told + "7.0"),
    ]
    asked = mock.Mock(return_value=devices)
    monkeypatch.setattr(device_lib, "list_local_devices", asked)
    monkeypatch.setattr(session, "gpus", GPUS)
    config = mock.Mock(list_physical_devices=lambda kind: ["GPU:0"])
    del config.get_device_details
    monkeypatch.setattr(session.tensorflow.config, "experimental", config)
    assert session.gpus() == [("Tesla V100", (7, 0))]
    (settings,) = asked.call_args[0]
    assert settings.gpu_options.allow_growth


@pytest.mark.parametrize(
    "precision, needed",
    [
        ("bfloat16", "a GPU of compute capability 8.0 .* a CPU with AVX-512 BF16"),
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
    """There TensorFlow rewrites the graph: none is built for it."""
    monkeypatch.setattr(session, "_cpu_flags", lambda: flags)
    if MODERN and flags:
        session.prepare_graph("bfloat16")
        assert products.dtype_of() == tf.float32
        new_session(precision="bfloat16").close()
        monkeypatch.setattr(session.tf, "Session", mock.Mock())
        new_session(precision="bfloat16")
        rewrites = tf.Session.call_args[0][2].graph_options.rewrite_options
        assert rewrites.auto_mixed_precision_onednn_bfloat16 == rewrites.ON
    else:
        with pytest.raises(UserError, match="bfloat16"):
            new_session(precision="bfloat16")


@pytest.mark.parametrize(
    "kind, said",
    [
        ("ResourceExhausted", "OOM\nwhen allocating"),
        ("Internal", "failed call to cuCtxCreate: CUDA_ERROR_OUT_OF_MEMORY: out"),
        ("Internal", "Failed to create cuBLAS handle: CUBLAS_STATUS_ALLOC_FAILED"),
        ("Unknown", "Could not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_little_memory_is_told_with_advice(kind, said):
    with pytest.raises(UserError, match="^the device has not enough memory: use less$"):
        with session.enough_memory("use less"):
            raise getattr(tf.errors, kind + "Error")(None, None, said)


def test_other_errors_of_a_device_are_not_its_memory():
    told = "CUDNN_STATUS_EXECUTION_FAILED"
    with pytest.raises(tf.errors.InternalError, match=told):
        with session.enough_memory("use less"):
            raise tf.errors.InternalError(None, None, told)


def test_nothing_is_left_of_a_temporary_graph():
    with temporary_graph() as graph, tf.Session() as one:
        unit = one.run(l2_normalize(tf.constant([[3.0, 4.0]])))
        np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)
        left = weakref.ref(graph)
    del graph, one
    gc.collect()
    assert left() is None


def test_float32_is_everywhere():
    with tf.Graph().as_default(), new_session() as session:
        third = session.run(tf.ones([1, 3]) / 3)
    assert third.dtype == "float32" and third.sum() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("threads", [None, 3])
def test_operations_that_are_not_shared_run_beside_others(threads):
    config = session.session_config(threads=threads, side_by_side=True)
    assert config.intra_op_parallelism_threads == 1
    assert config.inter_op_parallelism_threads == (threads or 0)


def test_xla_where_a_session_would_go_on_without_it(monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    with pytest.raises(UserError, match="--xla compiles for GPUs.*TF_XLA_FLAGS=--tf"):
        new_session(xla=True)
    monkeypatch.setattr(session, "gpus", lambda: [session.Gpu("card", (7, 0))])
    session.require_xla()
    levels = [
        session.session_config(xla=xla).graph_options.optimizer_options.global_jit_level
        for xla in (True, False)
    ]
    assert levels == [tf.OptimizerOptions.ON_2, tf.OptimizerOptions.DEFAULT]


def test_float16_is_not_for_training():
    with pytest.raises(UserError, match="would be 0 in it.*use tf32 or bfloat16"):
        session.require_trainable("float16")
    for precision in PRECISIONS:
        if precision != "float16":
            session.require_trainable(precision)


STEPS = """
import networks
from util.graph.compat import tf
from util.graph.process import own_process
from util.graph.session import new_session

own_process()
for xla in (False, True):
    with networks.small_backbone(), tf.Graph().as_default():
        model = networks.LSTM_model(mode="train", **networks.SMALL)
        with new_session(threads=1, xla=xla) as session:
            networks.load_recipe(session, model)
            fed = networks.feed(model, [(1, 5)], networks.SMALL)
            fetched, about = [model.cost, model.train_step], tf.RunMetadata()
            print(session.run(fetched, fed)[0], session.run(fetched, fed)[0])
            # The same fetches: others would be compiled anew.
            full = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
            print(session.run(fetched, fed, full, about)[0])
            print(sum(len(one.node_stats) for one in about.step_stats.dev_stats))
"""


@pytest.mark.slow
@pytest.mark.skipif(not MODERN, reason="needs TensorFlow 2's XLA for the CPU")
def test_training_compiled_for_the_cpu():
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [os.path.dirname(tests), tests, os.path.join(tests, "golden")]
    # XLA's own passes are all that the numbers depend on; LLVM's take half the time.
    env = dict(os.environ, TF_XLA_FLAGS=session.CPU_FLAG)
    env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    env["PYTHONPATH"] = os.pathsep.join(paths)
    out = subprocess.check_output([sys.executable, "-c", STEPS], env=env, text=True)
    *plain, nodes, c1, c2, c3, fewer = map(float, out.split())
    np.testing.assert_allclose([c1, c2, c3], plain, rtol=1e-5)
    assert fewer < 0.6 * nodes


def test_devices_are_known_by_what_they_are():
    """On a machine with a GPU the real TensorFlow says what it is."""
    found = GPUS()
    if not found:
        pytest.skip("no GPU here: what TensorFlow says of one is not tested")
    assert all(gpu.name and gpu.capability >= (3, 5) for gpu in found)
    with tf.Graph().as_default(), new_session() as one:
        assert one.run(tf.ones([2, 2]) @ tf.ones([2, 2])).tolist() == [[2, 2], [2, 2]]
