"""End to end over TVM's RPC with no hardware: the C server under qemu-aarch64, TVM's tracker and server."""

from __future__ import annotations

import _thread
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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

pytestmark = pytest.mark.slow
_CORE = targets.get("cortex-a76")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.device_server(tmp_path_factory)


@pytest.fixture
def connect() -> Iterator[Callable[..., RpcDevice]]:
    opened: list[RpcDevice] = []

    def call(address: str, **options: object) -> RpcDevice:
        opened.append(RpcDevice(address, _CORE, timing=QUICK, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield call
    for device in opened:
        device.close()


def _statuses(found: list[Measurement]) -> dict[str, Status]:
    return {m.key: m.status for m in found}


def test_every_kind_of_candidate_on_an_emulated_device(
    server: Path, tmp_path: Path, connect: Callable[..., RpcDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    good = convolution("dotprod")
    process = servers.emulated(server, tmp_path / "work")
    try:
        device = connect(f"rpc://127.0.0.1:{process.port}")
        plain = convolution("ref", "ref")
        batch = [
            good,
            make.crashing(plain),
            make.slower(plain),
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

        # Ctrl-C ends the batch and leaves no process; the device can be used again.
        links = list(device._links)
        slow = [make.slower(plain, str(i), 100_000 + i) for i in range(3)]
        with pytest.raises(KeyboardInterrupt):
            device.measure(slow, lambda done, total: _thread.interrupt_main() if done == 1 else None)
        time.sleep(0.5)
        assert all(link._worker is None for link in links) and not device._links
        assert device.measure([other])[0].ok
        device.close()

        main_code = _exit_code("device", "ping", f"rpc://127.0.0.1:{process.port}", "--json")
        told = json.loads(capsys.readouterr().out)
        assert main_code == 0 and told["core"] == "cortex-a76" and told["emulated"] is True
        assert list((tmp_path / "work").iterdir()) == []  # nothing stays behind
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
                running[-1].end()
                time.sleep(1.0)
                running.append(servers.emulated(server, tmp_path / "work", *options))

            helpers: list[threading.Thread] = []

            def told(done: int, total: int) -> None:
                if done == 2:
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
    deadline = time.monotonic() + 20
    while True:
        assert _exit_code("device", "list", f"tracker://127.0.0.1:{port}", "--json") == 0
        devices = json.loads(capsys.readouterr().out)["devices"]
        if devices and devices[0]["free"]:
            break
        assert time.monotonic() < deadline, "the device did not reach the tracker"
        time.sleep(0.1)
    assert [d["key"] for d in devices] == ["board"] and len(devices[0]["addresses"]) == 1


def test_a_device_that_stays_away_loses_what_was_left_and_nothing_else(
    server: Path, tmp_path: Path, connect: Callable[..., RpcDevice]
) -> None:
    process = servers.emulated(server, tmp_path / "work")
    try:
        device = connect(f"rpc://127.0.0.1:{process.port}", patience=1.0)
        plain = convolution("ref", "0")
        batch = [plain, *(make.slower(plain, str(i), 50_000 + i) for i in range(1, 5))]
        begin = time.monotonic()
        found = device.measure(batch, lambda done, total: process.end() if done == 2 else None)
        assert [m.status for m in found] == [Status.OK] * 2 + [Status.LOST] * 3
        assert "did not come back within 1 s" in found[2].detail and found[3].detail
        assert time.monotonic() - begin < 40
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
            link.connect(30.0)
            link.load(tmp_path / "batch.so")
            call = (
                timed.packed_inputs(good),
                1024,
                timed.REPORT_FIRST + QUICK.repeats,
                timed.settings(QUICK),
            )
            assert link.ask(30.0, "measure", 0, *call)[0] == 1  # crashed
            assert link.ask(30.0, "measure", 1, *call)[0] == 2  # timeout
            code, report, outputs = link.ask(30.0, "measure", 2, *call)
            assert code == 0 and outputs == good.expected[0] and report[5] == QUICK.repeats
            assert link.connections == connection
            link.drop()  # in the middle of a session
        if not host_is_arm():
            with pytest.raises(Mnv3cError, match="cannot load code for 64-bit Arm") as refused:
                connect(f"rpc://127.0.0.1:{process.port}").ping()
            assert "\n" not in refused.value.message
        assert process.interrupt() == 130
    finally:
        link.drop()
        process.end()
