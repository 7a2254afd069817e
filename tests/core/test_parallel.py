"""util.core.parallel: results in order, and every way to end."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from util.core import parallel
from util.core.errors import UserError


def double(number):
    return 2 * number


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_results_come_in_order(jobs):
    assert list(parallel.run(double, range(9), jobs)) == list(range(0, 18, 2))


def fail_first(path):
    """Raise for the task named 0, and leave a trace of the others."""
    if os.path.basename(path) == "0":
        raise UserError("the first one fails")
    time.sleep(0.02)
    os.mkdir(path)


def test_tasks_after_an_error_are_not_begun(tmp_path):
    tasks = [str(tmp_path / str(number)) for number in range(40)]
    with pytest.raises(UserError, match="the first one fails"):
        list(parallel.run(fail_first, tasks, jobs=2))
    assert len(os.listdir(str(tmp_path))) < 20


INTERRUPTED = """
import sys, test_parallel
from util.core import cli, parallel
tasks = [sys.argv[1] + "/" + str(number) for number in range(1, 400)]
run = lambda: list(parallel.run(test_parallel.fail_first, tasks, jobs=2))
sys.exit(cli.exit_code(run))
"""


def test_ctrl_c_ends_the_processes_even_when_pressed_twice(tmp_path):
    paths = os.pathsep.join(sys.path)
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=paths),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not os.listdir(str(tmp_path)) and running.poll() is None:
        time.sleep(0.02)
    for _ in range(2):  # to the whole group, as a terminal does
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.05)
    assert running.communicate(timeout=30)[1] == b"interrupted\n"
    assert running.returncode == 130
    assert len(os.listdir(str(tmp_path))) < 399


ENDED = """
import os, sys, time, test_parallel
from util.core import cli, parallel
def run():
    with parallel.Pool(2, died="it died") as pool:
        futures = [pool.submit(os.getpid) for _ in range(2)]
        for future in futures:
            pool.result(future)
        print(*pool._pool._processes, flush=True)
        time.sleep(60)
if __name__ == "__main__":
    sys.exit(cli.exit_code(run))
"""


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_no_worker_outlives_its_parent(tmp_path, number, code):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    running = subprocess.Popen(
        [sys.executable, str(script)],
        # Under nohup a process has to ignore it.
        preexec_fn=functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert running.stdout.readline().split()
    running.send_signal(number)
    # Workers hold the pipes too: their end is reached when all are gone.
    error = running.communicate(timeout=20)[1]
    assert running.returncode == code and "Traceback" not in error


STARTED = """
import subprocess, sys, time
from util.core import parallel
child = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
subprocess.Popen(child, preexec_fn=parallel.end_with_parent)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux does it")
def test_no_program_outlives_the_command_that_started_it():
    running = subprocess.Popen(
        [sys.executable, "-c", STARTED],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
    )
    assert running.stdout.readline() == b"1\n"
    running.kill()
    # The program holds the pipe too: its end is reached when it is gone.
    assert running.communicate(timeout=20)[0] == b""


def die(*_):
    os._exit(1)


def test_death_of_a_process_of_a_pool_is_an_error_that_names_its_work():
    with parallel.Pool(1, died="it died") as pool:
        assert pool.result(pool.submit(double, 4)) == 8
        future = pool.submit(die)
        with pytest.raises(UserError, match="^image 3: it died$"):
            pool.result(future, "image 3")
        with pytest.raises(UserError, match="^it died$"):
            pool.submit(double, 4)


def test_error_of_the_work_of_a_pool_is_raised_as_it_is(tmp_path):
    with parallel.Pool(1, died="it died") as pool:
        future = pool.submit(fail_first, str(tmp_path / "0"))
        with pytest.raises(UserError, match="^the first one fails$"):
            pool.result(future, "image 3")


def test_death_of_a_worker_ends_the_build():
    with pytest.raises(UserError, match="^1: a process dies of it"):
        list(parallel.run(die, [1, 2, 3], jobs=2))


def die_of_seven(number):
    time.sleep(0.3 if number == 0 else 0)
    if number == 7:
        os.abort()
    return number


@pytest.mark.parametrize("jobs", [1, 3])
def test_task_that_kills_its_process_is_named(jobs):
    done = parallel.run(die_of_seven, range(20), jobs, name=lambda n: f"image {n}")
    with pytest.raises(UserError, match="^image 7: a process dies of it"):
        list(done)


def die_once(path):
    """Die, and leave a trace to know it by the second time."""
    if not os.path.exists(path):
        os.mkdir(path)
        os.abort()


def test_task_that_kills_only_once_is_not_named(tmp_path):
    with pytest.raises(UserError, match="^a worker process died; free some memory"):
        list(parallel.run(die_once, [str(tmp_path / "a")], jobs=1))
