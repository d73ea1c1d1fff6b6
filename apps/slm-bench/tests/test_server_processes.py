"""Server processes: started, suspended, and stopped with all processes that they started."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from slm_bench.errors import BenchError
from slm_bench.serve.cores import bound, two_cores
from slm_bench.serve.servers.processes import Program, Server, group_exists, running

# Answers all GETs with 200, has a child process, and appends to a file while it is not suspended.
STAND_IN = """
import http.server, subprocess, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
def count():
    while True:
        open(sys.argv[1], "a").write("x")
        time.sleep(0.005)
threading.Thread(target=count, daemon=True).start()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def program(file: Path) -> Program:
    return Program("stand-in", [sys.executable, "-c", STAND_IN, str(file)], "model", "/")


def test_a_server_is_suspended_except_while_measured_and_leaves_no_process(tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    with running(program(counted), str(tmp_path), two_cores().server) as server:
        group = server._process.pid
        assert len(server.processes()) == 2
        assert server.rss() > 0
        with server.resumed():
            pass
        before = size_once_stable(counted)
        time.sleep(0.2)
        assert counted.stat().st_size == before
        with server.resumed():
            time.sleep(0.2)
        assert counted.stat().st_size > before
        if hasattr(os, "sched_getaffinity") and two_cores().server is not None:
            assert os.sched_getaffinity(group) == {two_cores().server}
        children = server.processes()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert not group_exists(group)


def size_once_stable(file: Path) -> int:
    """Return the size once it has had time to stop growing."""
    time.sleep(0.05)
    return file.stat().st_size


def test_the_error_for_a_server_that_ends_quotes_its_log(tmp_path: Path) -> None:
    broken = Program("stand-in", [sys.executable, "-c", "raise ValueError('no memory')"], "model")
    message = "stand-in ended before it was ready: ValueError: no memory"
    with pytest.raises(BenchError, match=message), running(broken, str(tmp_path), None):
        raise AssertionError("it is not ready")


def test_the_exit_code_is_none_while_the_process_runs(tmp_path: Path) -> None:
    server = Server(program(tmp_path / "counted"), str(tmp_path), None)
    try:
        assert server.wait(0.01) is None
        server.terminate()
        assert server.wait(10) == -15
    finally:
        server.stop()


def test_the_previous_cores_are_restored() -> None:
    cores = two_cores()
    if cores.client is None:
        pytest.skip("this machine has one core, or its system binds no process to one")
    before = os.sched_getaffinity(0)
    with bound(cores.client):
        assert os.sched_getaffinity(0) == {cores.client}
    assert os.sched_getaffinity(0) == before
