"""End to end over TVM's RPC with no hardware: the C server under qemu-aarch64, TVM's tracker and server."""

from __future__ import annotations

import _thread
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv3c import targets, toolchain
from mnv3c.cli import main
from mnv3c.errors import Mnv3cError
from mnv3c.toolchain.compiler import host_is_arm
from mnv3c.tuning.devices import Measurement, Status, timed
from mnv3c.tuning.devices.bundle import Builder
from mnv3c.tuning.devices.rpc import Link, RpcDevice, parse_address
from tests.tuning.devices import candidates as make
from tests.tuning.devices import servers
from tests.tuning.devices.candidates import QUICK, convolution
from tests.waiting import SECONDS, until

pytestmark = pytest.mark.slow
_CORE = targets.get("cortex-a76")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.device_server(tmp_path_factory)


@pytest.fixture
def connect() -> Iterator[Callable[..., RpcDevice]]:
    opened: list[RpcDevice] = []

    def call(address: str, patience: float = SECONDS) -> RpcDevice:
        opened.append(RpcDevice(address, _CORE, timing=QUICK, patience=patience))
        return opened[-1]

    yield call
    for device in opened:
        device.close()


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread as Ctrl-C does, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _thread.interrupt_main
    signal.signal(signal.SIGINT, before)


def _statuses(found: list[Measurement]) -> dict[str, Status]:
    return {m.key: m.status for m in found}


def test_every_kind_of_candidate_on_an_emulated_device(
    server: Path,
    tmp_path: Path,
    connect: Callable[..., RpcDevice],
    ctrl_c: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = convolution("dotprod")
    process = servers.emulated(server, tmp_path / "work")
    try:
        device = connect(f"rpc://127.0.0.1:{process.port}")
        plain = convolution("ref", "ref")
        batch = [
            good,
            make.crashing(plain),
            make.slower(plain, turns=1_000_000),
            make.illegal(plain),
            make.endless(plain),
            plain,
            make.wrong(plain),
            make.not_compiling(plain),
            make.not_linking(plain),
            dataclasses.replace(good, key="last"),
        ]
        found = device.measure(batch)
        assert [m.key for m in found] == [c.key for c in batch]
        assert _statuses(found) == {
            "good": Status.OK,
            "crash": Status.CRASHED,
            "slow": Status.OK,
            "illegal": Status.CRASHED,
            "endless": Status.TIMEOUT,
            "ref": Status.OK,
            "wrong": Status.WRONG,
            "no compile": Status.FAILED_TO_BUILD,
            "no link": Status.FAILED_TO_BUILD,
            "last": Status.OK,
        }
        costs = {m.key: m.cost for m in found}
        assert costs["slow"] > 2 * costs["ref"] > 0
        assert device.name == f"emulated device at rpc://127.0.0.1:{process.port}, cortex-a76"
        assert device.notes == ("an emulated device: its times say nothing about a core",)
        # A second batch on the same connection: the device must not take it for the first.
        other = convolution("dotprod", "other", seed=5, channels=24)
        assert _statuses(device.measure([other])) == {"other": Status.OK}

        # Ctrl-C ends the batch, in the middle of a call, and leaves no process; the device can be used again.
        links, device.timing = list(device._links), dataclasses.replace(QUICK, timeout_seconds=SECONDS)
        with pytest.raises(KeyboardInterrupt):
            device.measure([plain, make.endless(plain)], lambda done, total: ctrl_c())
        assert not device._links
        device.timing = QUICK
        until(lambda: all(link._worker is None for link in links), "no worker is left")
        assert device.measure([other])[0].ok
        device.close()

        main_code = _exit_code("device", "ping", f"rpc://127.0.0.1:{process.port}", "--json")
        told = json.loads(capsys.readouterr().out)
        assert main_code == 0 and told["core"] == "cortex-a76" and told["emulated"] is True
        # The server removes what a session left once the session's process has gone.
        until(lambda: not list((tmp_path / "work").iterdir()), "nothing stays behind")
        assert process.terminate() == 0
    finally:
        process.end()


def _exit_code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_server_that_ends_in_mid_run_and_comes_back_behind_a_tracker(
    server: Path, tmp_path: Path, connect: Callable[..., RpcDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    with servers.tracker(tmp_path / "tracker") as port:
        options = ("--tracker", f"127.0.0.1:{port}", "--key", "board")
        running = [servers.emulated(server, tmp_path / "work", *options)]
        try:
            _listed(port, capsys)
            device = connect(f"tracker://127.0.0.1:{port}/board")
            plain = convolution("ref", "0")
            batch = [plain, *(make.slower(plain, str(i), 50_000 + i) for i in range(1, 5))]
            batch.insert(3, make.crashing(plain))

            def replace() -> None:
                running.append(servers.emulated(server, tmp_path / "work", *options))

            helpers: list[threading.Thread] = []

            def told(done: int, total: int) -> None:
                if done == 2:
                    running[-1].end()
                    helpers.append(threading.Thread(target=replace))
                    helpers[-1].start()

            found = device.measure(batch, told)
            helpers[0].join()
            assert _statuses(found) == {
                **{c.key: Status.OK for c in batch},
                "crash": Status.CRASHED,
            }
            assert len(running) == 2 and device.connections == 2
            assert device.name.startswith("emulated device at tracker://127.0.0.1:")
        finally:
            for process in running:
                process.end()


def _listed(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The tracker knows the device; `mnv3c device list` says so."""
    devices: list[dict[str, Any]] = []

    def listed() -> bool:
        assert _exit_code("device", "list", f"tracker://127.0.0.1:{port}", "--json") == 0
        devices[:] = json.loads(capsys.readouterr().out)["devices"]
        return bool(devices and devices[0]["free"])

    until(listed, "the device reaches the tracker")
    assert [d["key"] for d in devices] == ["board"] and len(devices[0]["addresses"]) == 1


def test_a_device_that_stays_away_loses_what_was_left_and_nothing_else(
    server: Path, tmp_path: Path, connect: Callable[..., RpcDevice]
) -> None:
    process = servers.emulated(server, tmp_path / "work")
    try:
        device = connect(f"rpc://127.0.0.1:{process.port}", patience=1.0)
        plain = convolution("ref", "0")
        batch = [plain, *(make.slower(plain, str(i), 50_000 + i) for i in range(1, 5))]
        found = device.measure(batch, lambda done, total: process.end() if done == 2 else None)
        assert [m.status for m in found] == [Status.OK] * 2 + [Status.LOST] * 3
        assert "did not come back within 1 s" in found[2].detail and found[3].detail
        with pytest.raises(Mnv3cError, match="no device answers"):
            device.ping()
    finally:
        process.end()


def test_tvms_own_server_survives_candidates_and_clients(
    tmp_path: Path, connect: Callable[..., RpcDevice]
) -> None:
    """`mnv3c device serve` on this machine, with a shared object for it: crashes, clients that vanish."""
    command = [sys.executable, "-m", "mnv3c", "device", "serve", "--port", "0"]
    process = servers.Process(command, tmp_path / "work", r"listening on 127.0.0.1:(\d+)")
    link = Link(parse_address(f"rpc://127.0.0.1:{process.port}"))
    try:
        good = convolution()
        batch = [make.crashing(good), make.endless(good), good]
        builder = Builder(toolchain.find("host"), (), tmp_path)
        builder.shared_object(batch, builder.objects(batch), tmp_path / "batch.so", hosted=True)
        for connection in (1, 2):
            link.connect(SECONDS)
            link.load(tmp_path / "batch.so")
            call = (
                timed.packed_inputs(good),
                1024,
                timed.REPORT_FIRST + QUICK.repeats,
                timed.settings(QUICK),
            )
            assert link.ask(SECONDS, "measure", 0, *call)[0] == 1  # crashed
            assert link.ask(SECONDS, "measure", 1, *call)[0] == 2  # timeout
            code, report, outputs = link.ask(SECONDS, "measure", 2, *call)
            assert code == 0 and outputs == good.expected[0] and report[5] == QUICK.repeats
            assert link.connections == connection
            link.drop()  # in the middle of a session
        if not host_is_arm():
            with pytest.raises(Mnv3cError, match="cannot load code for 64-bit Arm") as refused:
                connect(f"rpc://127.0.0.1:{process.port}").ping()
            assert "\n" not in refused.value.message
        link.drop()
        assert process.terminate() == 128 + signal.SIGTERM
    finally:
        link.drop()
        process.end()
