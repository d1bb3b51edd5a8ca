"""The process that speaks TVM's RPC: ``python -m mnv3c.tuning.devices.rpc_worker``.

TVM's client waits without end for a device that has gone, and cannot be interrupted. So it runs here, where
``rpc.py`` can end it. Requests and answers are pickled tuples on stdin and stdout; this process trusts the
one that started it. The only module of this package that imports TVM's client.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
import time
from typing import IO, Any

import numpy as np

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: object) -> None:
    """Write one message."""
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message; raises ``EOFError`` when the other side has gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(_LENGTH.unpack(header)[0]))


class _Session:
    """A connection to one device."""

    def __init__(self) -> None:
        self._remote: Any = None
        self._module: Any = None
        self._batches = 0

    def begin(self) -> None:
        """Load TVM's client."""
        from tvm import rpc, runtime

        del rpc, runtime

    def connect(self, host: str, port: int, key: str, limit: float) -> None:
        from tvm import rpc

        self._remote = rpc.connect(host, port, key, session_timeout=limit)

    def load(self, data: bytes) -> str:
        """Send a shared object and load it there, under a new name: the old one may still be in use.

        Returns:
            Why the device refuses it; empty if it does not.
        """
        self._batches += 1
        name = f"mnv3c_batch_{self._batches}.so"
        self._remote.upload(bytearray(data), name)
        try:
            self._module = self._remote.load_module(name)
        except Exception as error:
            # TVM has one kind of exception for all: does the device still answer?
            self._remote.get_function("tvm.rpc.server.workpath")(name)
            return _one_line(error)
        self._remote.remove(name)
        return ""

    def identify(self, cpus: int) -> int:
        """What the device says of itself; ``timed.identity`` reads it."""
        return int(self._module.get_function("mnv3c_identify")(cpus))

    def measure(
        self, index: int, data: bytes, output_bytes: int, report_numbers: int, settings: list[int]
    ) -> tuple[int, list[float], bytes]:
        """Call the shim; returns its status, its report and the outputs."""
        from tvm import runtime

        device = self._remote.cpu()
        arrays = (
            np.frombuffer(data, np.uint8),
            np.zeros(max(output_bytes, 1), np.uint8),
            np.zeros(report_numbers, np.float64),
            np.array(settings, np.int64),
        )
        source, sink, report, numbers = (runtime.tensor(a, device) for a in arrays)
        status = int(self._module.get_function("mnv3c_measure")(index, source, sink, report, numbers))
        return status, report.numpy().tolist(), sink.numpy().tobytes()[:output_bytes]


def _one_line(error: Exception) -> str:
    """What went wrong, without the trace of the other side."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"


def _end_with(parent: int) -> None:
    """End when the process that started this one has: a call to a device that has gone never returns."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Serve requests ``(method, *arguments)`` until stdin ends.

    Answers are ``(True, result)`` or ``(False, message)``.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # TVM and what it loads may print
    session = _Session()
    while True:
        try:
            method, *arguments = receive(sys.stdin.buffer)
        except EOFError:
            break
        try:
            answer = (True, getattr(session, method)(*arguments))
        except Exception as error:
            answer = (False, _one_line(error))
        try:
            send(answers, answer)
        except BrokenPipeError:
            break
    os._exit(0)  # closing a session to a device that has gone may wait for it


if __name__ == "__main__":
    main()
