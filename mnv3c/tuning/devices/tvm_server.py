"""TVM's own RPC server, for devices where Python and TVM's wheel run. Imports TVM."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
from collections.abc import Callable

from mnv3c.errors import Mnv3cError


def serve(
    host: str,
    port: int,
    key: str = "",
    tracker: tuple[str, int] | None = None,
    announce: str | None = None,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until interrupted, one client at a time.

    TVM's loop ends when a client's process fails; it is started again here.

    Args:
        port: 0 for any that is free.
        key: kind of device; needed with a tracker.
        announce: the host that the tracker tells clients, where it differs from what it sees.
        ready: called with the port once the server listens.

    Raises:
        Mnv3cError: the port cannot be had, or a tracker is given without a key.
    """
    if tracker is not None and not key:
        raise Mnv3cError("a tracker needs the kind of device", "--key")
    try:
        listener = socket.create_server((host, port), reuse_port=False)
    except (OSError, OverflowError) as error:
        raise Mnv3cError(f"cannot listen on {host} port {port}: {error}", "--port") from None
    from tvm.rpc import server

    server.logger.setLevel(logging.WARNING)
    folder = os.getcwd()  # noqa: PTH109 - TVM changes it while it serves
    with listener:
        if ready is not None:
            ready(listener.getsockname()[1])
        try:
            while True:
                with contextlib.suppress(RuntimeError, ValueError):
                    server._listen_loop(listener, listener.getsockname()[1], key, tracker, None, announce)
                os.chdir(folder)
        finally:
            for child in multiprocessing.active_children():
                child.kill()
