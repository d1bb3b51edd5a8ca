"""Device servers and trackers as processes of their own, on loopback, that end with the test."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.tuning.devices import deploy
from tests.waiting import SECONDS, until


class Process:
    """A server in a process group of its own."""

    def __init__(self, command: Sequence[str], folder: Path, ready: str) -> None:
        folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder)},
            cwd=folder,
        )
        self.port = 0
        if ready:
            try:
                match = re.search(ready, self._line())
                assert match is not None
                self.port = int(match[1])
            except BaseException:
                self.end()
                raise

    def _line(self) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(SECONDS), f"the server did not say its port within {SECONDS:.0f} s"
        return self._process.stdout.readline()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> int:
        """As ``kill`` does; the code that it ends with. What runs in the background does not hear SIGINT."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=SECONDS)

    def end(self) -> None:
        """At once, with all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def emulated(folder: Path, work: Path, *options: str) -> Process:
    """The C server of a built folder, as a phone starts it, under qemu-aarch64."""
    loader = [str(folder / "lib" / deploy.SYSTEM[0]), "--library-path", f"{folder / 'lib'}:{folder}"]
    command = ["qemu-aarch64", "-cpu", "cortex-a76", *loader, str(folder / "server")]
    return Process([*command, "--port", "0", *options], work, r"listening on 127.0.0.1:(\d+)")


@contextlib.contextmanager
def tracker(work: Path) -> Iterator[int]:
    """TVM's tracker; its port."""
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado")
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port)]
    process = Process([*command, "--port-end", str(port + 1), "--silent"], work, "")
    try:
        until(lambda: _listens(port) or not process.alive, "the tracker listens")
        assert process.alive, "the tracker ended"
        yield port
    finally:
        process.end()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS):
        return True
    return False


def device_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `mnv3c device build` makes, once a test run; skips where it cannot be had."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, told = shared / "device-server", shared / "device-server-built"
    try:
        (shared / "device-server-begun").mkdir()
    except FileExistsError:
        until(told.exists, "another worker has built the device server")
    else:
        told.with_suffix(".part").write_text(_build(folder))
        told.with_suffix(".part").rename(told)
    if why := told.read_text():
        pytest.skip(why)
    return folder


def _build(folder: Path) -> str:
    """Empty, or why there is no device server."""
    try:
        made = deploy.build(folder)
    except Mnv3cError as error:
        return f"no device server: {error}"
    return "" if made.android else "the cross compiler brings no Arm C library for qemu to run"
