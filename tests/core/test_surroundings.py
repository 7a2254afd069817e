"""util.core.surroundings: what schedulers and containers leave is respected."""

import os

import pytest

from util.core import surroundings
from util.core.errors import UserError


def choose(monkeypatch, chosen, given):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    surroundings.choose_gpus(chosen)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    "chosen, given, visible",
    [
        (None, "3", "3"),
        (None, "", ""),
        (None, "GPU-5a,GPU-7b", "GPU-5a,GPU-7b"),
        (None, None, "0"),
        ("0,1", None, "0,1"),
        ("1", "3,5", "5"),
        ("1,0", "GPU-5a, GPU-7b", "GPU-7b,GPU-5a"),
        ("-1", "3,5", "-1"),
    ],
)
def test_gpus_count_within_those_that_were_given(monkeypatch, chosen, given, visible):
    assert choose(monkeypatch, chosen, given) == visible


@pytest.mark.parametrize("given", ["", "-1", "3", "3,-1,5"])
def test_gpu_beyond_those_that_were_given_is_refused(monkeypatch, given):
    with pytest.raises(UserError, match=f"-g 1: CUDA_VISIBLE_DEVICES={given} leaves"):
        choose(monkeypatch, "1", given)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == given


@pytest.mark.parametrize(
    "allowed, files, number",
    [
        ({0, 3, 5}, {}, 3),
        ({0, 3, 5}, {"cpu.max": "max 100000\n"}, 3),
        ({0, 3, 5}, {"cpu.max": "150000 100000\n"}, 2),
        ({0, 3, 5}, {"cpu.max": "900000 100000\n"}, 3),
        ({0}, {"cpu.max": "5000 100000\n"}, 1),
        (
            {0, 3, 5},
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            {0, 3, 5},
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
    ],
)
def test_cores_are_those_of_scheduler_and_container(
    tmp_path, monkeypatch, allowed, files, number
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    monkeypatch.setattr(surroundings, "CGROUP", str(tmp_path))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert surroundings.cores() == number
