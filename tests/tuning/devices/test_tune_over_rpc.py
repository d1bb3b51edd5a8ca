"""A search over TVM's RPC with no hardware: tracker, C server under qemu-aarch64, and what goes wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnv3c import targets
from mnv3c.tuning import tasks
from mnv3c.tuning.devices import Candidate, Measurement, Progress, Status
from mnv3c.tuning.devices.rpc import RpcDevice
from mnv3c.tuning.journal import Journal
from mnv3c.tuning.session import Session, Settings
from tests.graphs import Builder
from tests.tuning.devices import servers
from tests.tuning.devices.candidates import QUICK, crashing
from tests.tuning.devices.servers import device_server
from tests.waiting import SECONDS

pytestmark = pytest.mark.slow
_CORE = targets.get("cortex-a76")
_CRASHES, _ENDS = 3, 5  # places, among all candidates


def cost(key: str) -> float:
    """What a candidate that works is said to cost, by its code alone."""
    return 1e-6 * (1000 + int(hashlib.sha256(key.encode()).hexdigest()[:4], 16))


class Troubled:
    """A device that runs all candidates, of which one crashes, and that loses its server once.

    Those that worked get known costs: what an emulator on a busy machine measures is no ground to judge a
    search by.
    """

    unit = "s"

    def __init__(self, device: RpcDevice, lose: Callable[[], None]) -> None:
        self._device, self._lose = device, lose
        self.found: dict[str, Measurement] = {}

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def kind(self) -> str:
        return self._device.kind

    @property
    def notes(self) -> tuple[str, ...]:
        return self._device.notes

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        before = len(self.found)
        changed = [crashing(c) if before + i == _CRASHES else c for i, c in enumerate(batch)]

        def told(done: int, total: int) -> None:
            if before + done == _ENDS:
                self._lose()
            if progress is not None:
                progress(done, total)

        measured = self._device.measure(changed, told)
        for c, m in zip(batch, measured, strict=True):
            assert m.ok == (0 < m.cost < float("inf")) and m.unit == self.unit
            known = cost(c.key) if m.ok else m.cost
            self.found[c.key] = Measurement(c.key, m.status, known, m.unit, detail=m.detail)
        return [self.found[c.key] for c in batch]

    def close(self) -> None:
        self._device.close()


def test_a_search_ends_with_the_right_record(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("optuna")
    server = device_server(tmp_path_factory)
    b = Builder(7, "one")
    graph = b.finish(b.hard_swish(b.conv(b.input(8, 8, 16), 16, dtype="int16")))
    with servers.tracker(tmp_path / "tracker") as port:
        options = ("--tracker", f"127.0.0.1:{port}", "--key", "board")
        running = [servers.emulated(server, tmp_path / "work", *options)]
        helpers: list[threading.Thread] = []

        def replace() -> None:
            running.append(servers.emulated(server, tmp_path / "work", *options))

        def lose() -> None:
            running[-1].end()
            helpers.append(threading.Thread(target=replace))
            helpers[-1].start()

        remote = RpcDevice(f"tracker://127.0.0.1:{port}/board", _CORE, timing=QUICK, patience=SECONDS)
        try:
            remote.ping()
            device = Troubled(remote, lose)
            journal = Journal(None, device.name, "gcc 12")
            session = Session(graph, "dotprod", _CORE, device, "gcc 12", Settings(trials=6), journal)
            outcome = session.run()
            for helper in helpers:
                helper.join()
            assert len(running) == 2 and remote.connections >= 2
        finally:
            remote.close()
            for process in running:
                process.end()

    assert outcome.complete
    statuses = [m.status for m in device.found.values()]
    assert statuses.count(Status.CRASHED) == 1 and statuses.count(Status.OK) == len(statuses) - 1 > _ENDS
    assert [reason for _, _, reason in outcome.failed] == ["crashed: bad memory access"]
    (layer,) = outcome.best
    record = next(r for r in outcome.records if r.op == layer.op)
    assert device.name.startswith("emulated device at tracker://127.0.0.1:")
    assert {r.device for r in outcome.records} == {"emulated device, cortex-a76"}  # a record says no address
    task = tasks.task(graph, layer, _CORE.name)
    keys = {task.candidate(s)[0].key for s in outcome.ranked[layer.op]}
    assert len(keys) > 2 and all(device.found[k].ok for k in keys)
    assert cost(task.candidate(record.schedule)[0].key) == min(map(cost, keys)) == record.cost
