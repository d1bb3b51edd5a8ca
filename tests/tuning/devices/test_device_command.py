"""`mnv3c device` from the command line: a tracker of our own, a pretended adb, one-line errors."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv3c.errors import Mnv3cError
from mnv3c.toolchain import Compiler
from mnv3c.tuning.devices import deploy, tracker
from mnv3c.tuning.devices.rpc import Address, parse_address
from tests.command_line import Run
from tests.tuning.devices import servers


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("rpc://127.0.0.1:9090", Address(False, "127.0.0.1", 9090, "")),
        ("rpc://board:1/pixel-8", Address(False, "board", 1, "pixel-8")),
        ("rpc://[::1]:9090/", Address(False, "::1", 9090, "")),
        ("tracker://10.0.0.1:9190/a_55", Address(True, "10.0.0.1", 9190, "a_55")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "rpc://",
        "rpc://host",
        "rpc://host:0",
        "rpc://host:70000",
        "http://host:80",
        "tracker://host:9190",
        "x",
    ],
)
def test_bad_addresses_are_one_line(text: str, run: Run) -> None:
    code, out, err = run("device", "ping", text)
    assert code == 2 and out == "" and err.count("\n") == 1 and text in err and "HOST:PORT" in err


@pytest.fixture
def fake_tracker() -> Iterator[tuple[int, list[Any]]]:
    """Answers as TVM's tracker does; what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[Any] = []
    servers_known = [
        {"key": "server:board", "addr": ["127.0.0.1", 9091]},
        {"key": "server:board", "addr": ["127.0.0.1", 9090]},
    ]
    queues = {"board": {"free": 1, "pending": 0}, "phone": {"free": 0, "pending": 2}}

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.sendall(client.recv(4))
                size = struct.unpack("<i", client.recv(4))[0]
                message = json.loads(client.recv(size))
                asked.append(message)
                if message[0] == 4 and message[1] != "board":
                    continue  # waits without an answer would take the test's time
                answer = [0, ["127.0.0.1", 9090, "board:7"]]
                if message[0] == 6:
                    answer = [0, {"server_info": servers_known, "queue_info": queues}]
                text = json.dumps(answer).encode()
                client.sendall(struct.pack("<i", len(text)) + text)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], asked
    listener.close()


def test_the_devices_of_a_tracker(fake_tracker: tuple[int, list[Any]], run: Run) -> None:
    port, _ = fake_tracker
    code, out, _ = run("device", "list", f"tracker://127.0.0.1:{port}", "--json")
    assert code == 0
    assert json.loads(out)["devices"] == [
        {"key": "board", "addresses": ["127.0.0.1:9090", "127.0.0.1:9091"], "free": 1, "clients_waiting": 0},
        {"key": "phone", "addresses": [], "free": 0, "clients_waiting": 2},
    ]
    code, out, _ = run("device", "list", f"tracker://127.0.0.1:{port}")
    assert code == 0 and "board" in out and "127.0.0.1:9091" in out


def test_a_device_is_asked_for_by_its_key(fake_tracker: tuple[int, list[Any]]) -> None:
    port, asked = fake_tracker
    assert tracker.request("127.0.0.1", port, "board", 5.0) == tracker.Place("127.0.0.1", 9090, "board:7")
    with pytest.raises(tracker.NoDevice, match="closed the connection"):
        tracker.request("127.0.0.1", port, "phone", 5.0)
    assert asked == [[4, "board", "", 1], [4, "phone", "", 1]]


def test_where_nothing_listens_one_line_says_so(run: Run) -> None:
    port = servers.free_port()
    code, _, err = run("device", "list", f"tracker://127.0.0.1:{port}")
    assert code == 2 and err.count("\n") == 1 and "no tracker answers" in err
    code, _, err = run("device", "ping", f"rpc://127.0.0.1:{port}", "--wait", "0")
    assert code == 2 and err.count("\n") == 1 and "no device answers" in err and "refused" in err
    code, _, err = run("device", "serve", "--tracker", "127.0.0.1:1")
    assert code == 2 and "--key" in err and err.count("error:") == 1
    assert "no authentication" in err
    code, _, err = run("device", "serve", "--tracker", "nowhere", "--key", "x")
    assert code == 2 and "HOST:PORT" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("device", "serve", "--port", taken.getsockname()[1])
    assert code == 2 and "cannot listen" in err and err.count("error:") == 1


def test_a_phone_without_adb(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _device_folder(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run("device", "push", folder, "--adb")
    assert code == 2 and err.count("\n") == 1 and "error: adb: not installed" in err
    code, _, err = run("device", "push", folder)
    assert code == 2 and "--adb" in err


def _device_folder(tmp_path: Path, android: bool = True) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "manifest.json").write_text(
        json.dumps({"mnv3c": "1", "kind": "device server", "android": android})
    )
    return folder


def test_push_copies_forwards_and_says_how_to_start(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, adb = tmp_path / "log", tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{adb.parent}:/usr/bin:/bin")
    folder = _device_folder(tmp_path)
    code, out, _ = run("device", "push", folder, "--adb", "--serial", "ABC", "--port", "9191", "--start")
    place = deploy.PHONE_FOLDER
    assert code == 0 and "ping rpc://127.0.0.1:9191" in out
    assert log.read_text().splitlines() == [
        f"-s ABC shell rm -rf {place} && mkdir -p {place}",
        f"-s ABC push {folder}/. {place}",
        f"-s ABC shell chmod -R 755 {place}",
        "-s ABC forward tcp:9191 tcp:9191",
        f"-s ABC shell -t {place}/run.sh --port 9191",
    ]
    adb.write_text("#!/bin/sh\necho 'error: no devices/emulators found' >&2\nexit 1\n")
    code, _, err = run("device", "push", folder, "--adb")
    assert code == 2 and "no devices/emulators found" in err and err.count("\n") == 1


def test_only_what_build_made_is_pushed(run: Run, tmp_path: Path) -> None:
    code, _, err = run("device", "push", tmp_path, "--adb")
    assert code == 2 and "mnv3c device build" in err
    code, _, err = run("device", "push", _device_folder(tmp_path, android=False), "--adb")
    assert code == 2 and "Android" in err and err.count("\n") == 1


def test_build_needs_the_wheels_and_keeps_what_is_not_ours(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    code, _, err = run("device", "build", "-o", tmp_path / "server", "--wheels", tmp_path / "wheels")
    assert code == 2 and "apache_tvm-0.27.0.post1" in err and not (tmp_path / "server").exists()
    (tmp_path / "wheels" / "apache_tvm-0.27.0.post1-py3-none-x_aarch64.whl").write_text("no zip")
    (tmp_path / "wheels" / "apache_tvm_ffi-0.1.14.post1-cp311-x_aarch64.whl").write_text("no zip")
    code, _, err = run("device", "build", "-o", tmp_path / "server", "--wheels", tmp_path / "wheels")
    assert code == 2 and "not a wheel" in err and err.count("\n") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = run("device", "build", "-o", tmp_path / "mine")
    assert code == 2 and "not a library of ours" in err
    ndk = Compiler("clang", "17", "clang", ("/ndk/bin/aarch64-linux-android21-clang",), "aarch64", "PATH")
    with pytest.raises(Mnv3cError, match="another C library"):
        deploy._glibc(ndk)


def test_help_teaches(run: Run) -> None:
    code, out, _ = run("device", "--help")
    assert code == 0
    for words in ("adb", "ssh -N -L 9090:127.0.0.1:9090", "tvm.exec.rpc_tracker", "no authentication"):
        assert words in out
    for name in ("serve", "build", "push", "list", "ping"):
        code, out, _ = run("device", name, "--help")
        assert code == 0 and len(out) > 200
