"""What the benchmark measures of a process: the whole tree's CPU, the true peak of memory, an end in time."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from benchmarks.measure import descendants, parent, reference_loop_ms, run_measured, tree_cpu_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Usage

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
BURN = "import time\nwhile time.process_time() < 0.5: pass\n"
CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]], check=True)\n"
HOLD = "import time\nheld = b'x' * 100_000_000\ntime.sleep(0.4)\n"


def measured(folder: Path, *arguments: str, timeout: float = 30) -> Usage:
    command = [sys.executable, "-c", *arguments]
    return run_measured(command, environment=dict(os.environ), folder=folder, timeout=timeout)


def test_the_cpu_of_the_process_is_counted(tmp_path: Path) -> None:
    usage = measured(tmp_path, BURN)
    assert usage.exit_code == 0
    assert 0.5 <= usage.cpu_seconds < 2
    assert usage.wall_seconds >= 0.5


def test_the_cpu_of_children_is_counted(tmp_path: Path) -> None:
    assert measured(tmp_path, CHILD, BURN).cpu_seconds >= 0.5


def test_waiting_costs_nothing(tmp_path: Path) -> None:
    usage = measured(tmp_path, "import time; time.sleep(0.5)")
    assert usage.wall_seconds >= 0.5
    assert usage.cpu_seconds < 0.4


@needs_proc
def test_the_peak_is_that_of_the_largest_process(tmp_path: Path) -> None:
    usage = measured(tmp_path, CHILD, HOLD)
    assert 100 < usage.rss_mb < 130
    assert usage.rss_total_mb > usage.rss_mb + 5  # the parent of it as well


@needs_proc
def test_the_memory_of_this_process_does_not_count(tmp_path: Path) -> None:
    held = b"x" * 200_000_000
    assert measured(tmp_path, "import time; time.sleep(0.2)").rss_mb < 50
    assert held


def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert measured(tmp_path, code).exit_code == 3
    assert (tmp_path / "stdout").read_text() == "out\n"
    assert (tmp_path / "stderr").read_text() == "err\n"


def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    usage = measured(tmp_path, "import time; time.sleep(60)", timeout=0.3)
    assert usage.exit_code == -9
    assert usage.wall_seconds < 10


@needs_proc
def test_a_tree_is_found_and_its_cpu_counted() -> None:
    command = [sys.executable, "-c", CHILD, BURN + "print('burnt', flush=True)\ninput()\n"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        assert parent(process.pid) == os.getpid()
        (child,) = descendants(process.pid)
        assert parent(child) == process.pid
        living = tree_cpu_seconds(process.pid)
        process.communicate(b"\n")
    assert living is not None
    assert living >= 0.4  # the clock of /proc ticks in hundredths, for each process


def test_a_process_that_is_gone_has_no_tree() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert descendants(process.pid) == []
    assert parent(process.pid) is None
    assert tree_cpu_seconds(process.pid) is None


def test_the_reference_loop_takes_time() -> None:
    assert reference_loop_ms() > 1
