"""Asking a TVM RPC tracker: JSON over TCP (``tvm/rpc/tracker.py``), without TVM and with time-outs."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from mnv3c.errors import Mnv3cError

_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_MOST_BYTES = 1 << 20


class NoDevice(Exception):
    """The tracker has no free device of the key, or has gone; trying again may help."""


@dataclass(frozen=True)
class Place:
    """Where a device server listens and what to say to it."""

    host: str
    port: int
    key: str


@dataclass(frozen=True)
class Listed:
    """A kind of device that a tracker knows.

    Attributes:
        addresses: ``host:port`` of each server.
        free: how many wait for work.
        pending: clients that wait for one.
    """

    key: str
    addresses: tuple[str, ...]
    free: int
    pending: int


def summary(host: str, port: int, timeout: float = 10.0) -> tuple[Listed, ...]:
    """What the tracker has, by key.

    Raises:
        Mnv3cError: there is no tracker.
    """
    try:
        answer = _ask(host, port, [_SUMMARY], timeout)[1]
        addresses: dict[str, list[str]] = {}
        for server in answer["server_info"]:
            key = str(server["key"]).split(":", 1)[1]
            addresses.setdefault(key, []).append(":".join(str(part) for part in server["addr"]))
        queues = answer["queue_info"]
        return tuple(
            Listed(
                key,
                tuple(sorted(addresses.get(key, ()))),
                int(queues.get(key, {}).get("free", 0)),
                int(queues.get(key, {}).get("pending", 0)),
            )
            for key in sorted({*addresses, *queues})
        )
    except (OSError, NoDevice, KeyError, IndexError, TypeError, ValueError) as error:
        raise Mnv3cError(f"no tracker answers: {error}", f"tracker://{host}:{port}") from None


def request(host: str, port: int, key: str, timeout: float) -> Place:
    """Wait for a free device of the key.

    Raises:
        NoDevice: there is none within ``timeout`` seconds.
    """
    try:
        code, place = _ask(host, port, [_REQUEST, key, "", 1], timeout)
        if code != _SUCCESS:
            raise NoDevice(f"the tracker refuses: {code}")
        return Place(str(place[0]), int(place[1]), str(place[2]))
    except TimeoutError:
        raise NoDevice(f"no device {key!r} is free") from None
    except (OSError, TypeError, ValueError, IndexError) as error:
        raise NoDevice(f"no tracker answers at {host}:{port}: {error}") from None


def _ask(host: str, port: int, message: list[Any], timeout: float) -> Any:
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(struct.pack("<i", _MAGIC))
        if struct.unpack("<i", _receive(connection, 4))[0] != _MAGIC:
            raise NoDevice("what listens there is no tracker")
        text = json.dumps(message).encode()
        connection.sendall(struct.pack("<i", len(text)) + text)
        size = struct.unpack("<i", _receive(connection, 4))[0]
        if not 0 < size <= _MOST_BYTES:
            raise NoDevice("a damaged answer of the tracker")
        return json.loads(_receive(connection, size))


def _receive(connection: socket.socket, bytes_: int) -> bytes:
    data = b""
    while len(data) < bytes_:
        part = connection.recv(bytes_ - len(data))
        if not part:
            raise NoDevice("the tracker closed the connection")
        data += part
    return data
