"""Measuring on real devices over TVM's RPC, directly or through a tracker.

A batch travels as one shared object. Each candidate is one call; on the device it runs in a process of its
own (``templates/tuning/shim.c``), so a crash or an endless loop comes back as an answer. What can still fail
is the connection: the candidate in flight is then tried once more on a new one, the others go on.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3c import toolchain
from mnv3c.errors import Mnv3cError
from mnv3c.targets import Target
from mnv3c.tuning.devices import timed, tracker
from mnv3c.tuning.devices.base import Candidate, Measurement, Progress, Raw, Status, Timing
from mnv3c.tuning.devices.bundle import Builder
from mnv3c.tuning.devices.rpc_worker import receive, send

_ADDRESS = re.compile(
    r"(?P<kind>rpc|tracker)://(?P<host>[^/:]+|\[[^]]+\]):(?P<port>\d+)(?:/(?P<key>[\w-]+))?/?"
)
_CONNECT_SECONDS = 60.0
_START_SECONDS = 120.0  # for TVM's client to load, on a busy machine
_SLOWEST_LINK = 200_000  # bytes a second; USB 2 and Wi-Fi are far above
_CALL_SECONDS = 60.0  # what a call may take beyond the candidate's own time; loading code on a busy device
_ATTEMPTS = 2  # connections on which a candidate is tried
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Address:
    """A device server (``tracker`` false), or a tracker and the key of a kind of device."""

    tracker: bool
    host: str
    port: int
    key: str

    def __str__(self) -> str:
        kind = "tracker" if self.tracker else "rpc"
        return f"{kind}://{self.host}:{self.port}" + (f"/{self.key}" if self.key else "")


def parse_address(text: str, place: str = "--device") -> Address:
    """``rpc://HOST:PORT[/KEY]`` or ``tracker://HOST:PORT/KEY``.

    Raises:
        Mnv3cError: it is neither.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise Mnv3cError(f"{text!r} is not rpc://HOST:PORT or tracker://HOST:PORT/KEY", place)
    if match["kind"] == "tracker" and not match["key"]:
        raise Mnv3cError(f"{text!r} lacks the device's key: tracker://HOST:PORT/KEY", place)
    return Address(
        match["kind"] == "tracker", match["host"].strip("[]"), int(match["port"]), match["key"] or ""
    )


class LinkLost(Exception):
    """The connection broke, or an answer did not come in time; another connection may work."""


class Link:
    """A connection to one device: a process of our own that speaks TVM's RPC, and what to send it.

    Not for several threads at once.
    """

    def __init__(self, address: Address, limit: float = 3600.0) -> None:
        """Args:
        limit: seconds after which the device may end a session; guards it against clients that vanish.
        """
        self.address = address
        self._limit = limit
        self._worker: subprocess.Popen[bytes] | None = None
        self._connected = False
        self._closed = False
        self._loaded: Path | None = None
        self.connections = 0

    def connect(self, patience: float) -> None:
        """Connect if there is no connection.

        Args:
            patience: seconds to try for.

        Raises:
            LinkLost: there was no device in that time; says why.
        """
        deadline = time.monotonic() + patience
        while not self._connected:
            if self._closed:
                raise LinkLost("closed")
            try:
                if self._worker is None:
                    self._anybody()
                    begin = time.monotonic()
                    self._start()
                    deadline += time.monotonic() - begin  # that was not the device's fault
                self._connect_once(max(deadline - time.monotonic(), 1.0))
            except LinkLost:
                if time.monotonic() + _RETRY_SECONDS > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _anybody(self) -> None:
        """Raise ``LinkLost`` at once where nobody listens: loading TVM takes seconds."""
        try:
            if self.address.tracker:
                tracker.summary(self.address.host, self.address.port)
            else:
                _knock(self.address.host, self.address.port)
        except Mnv3cError as error:
            raise LinkLost(error.message) from None

    def _start(self) -> None:
        """Start the process that speaks TVM's RPC and wait until it can.

        A tracker gives a device to a client for a few seconds; these must not go into loading TVM.
        """
        command = [sys.executable, "-m", "mnv3c.tuning.devices.rpc_worker"]
        self._worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self._closed:  # by another thread in the meantime
            self.drop()
            raise LinkLost("closed")
        self._call(_START_SECONDS, "begin")

    def _connect_once(self, patience: float) -> None:
        place = tracker.Place(self.address.host, self.address.port, self.address.key)
        if self.address.tracker:
            try:
                place = tracker.request(place.host, place.port, place.key, patience)
            except tracker.NoDevice as error:
                raise LinkLost(str(error)) from None
        _knock(place.host, place.port)
        self._call(_CONNECT_SECONDS, "connect", place.host, place.port, place.key, self._limit)
        self._connected = True
        self.connections += 1

    def load(self, shared_object: Path) -> None:
        """Send a batch, unless this connection has it.

        Raises:
            LinkLost: the connection broke.
            Mnv3cError: the device refuses it.
        """
        if self._loaded == shared_object:
            return
        data = shared_object.read_bytes()
        refused = self.ask(_CALL_SECONDS + len(data) / _SLOWEST_LINK, "load", data)
        if refused:
            raise Mnv3cError(
                f"the device cannot load code for 64-bit Arm Linux: {refused}", str(self.address)
            )
        self._loaded = shared_object

    def ask(self, timeout: float, method: str, *arguments: Any) -> Any:
        """Call ``rpc_worker``'s method of that name.

        Raises:
            LinkLost: no answer in ``timeout`` seconds, or TVM's client failed; the connection is dropped.
        """
        try:
            return self._call(timeout, method, *arguments)
        except LinkLost:
            self.drop()
            raise

    def _call(self, timeout: float, method: str, *arguments: Any) -> Any:
        """As ``ask``; a worker that answers is kept."""
        worker = self._worker
        if worker is None:  # closed by another thread
            raise LinkLost("closed")
        assert worker.stdin is not None and worker.stdout is not None
        try:
            send(worker.stdin, (method, *arguments))
            with selectors.DefaultSelector() as selector:
                selector.register(worker.stdout, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise LinkLost(f"no answer within {timeout:.0f} s")
            good, answer = receive(worker.stdout)
        except (OSError, EOFError):
            self.drop()
            raise LinkLost("the RPC client ended") from None
        except BaseException:
            self.drop()  # an interrupt, too, must leave no process behind
            raise
        if not good:
            raise LinkLost(str(answer))
        return answer

    def close(self) -> None:
        """End the connection for good."""
        self._closed = True
        self.drop()

    def drop(self) -> None:
        """End the connection, answer or not."""
        worker, self._worker, self._loaded = self._worker, None, None
        self._connected = False
        if worker is not None:
            worker.kill()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            worker.wait()


def _knock(host: str, port: int) -> None:
    """Raises ``LinkLost`` where nobody listens."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise LinkLost(f"{host} port {port}: {error.strerror or error}") from None


class RpcDevice:
    """Devices behind a TVM RPC server or tracker; with a tracker, all that are free at once."""

    unit = "s"

    def __init__(
        self,
        address: str | Address,
        core: Target,
        *,
        cc: str | None = None,
        timing: Timing | None = None,
        patience: float = 30.0,
        most_devices: int = 8,
    ) -> None:
        """Args:
        address: as ``parse_address`` takes it.
        core: what to build for.
        patience: seconds to wait for a device to come (back).
        most_devices: of a tracker's, to use at the same time.

        Raises:
            Mnv3cError: a bad address, or no C compiler for 64-bit Arm.
        """
        self.address = parse_address(address) if isinstance(address, str) else address
        self.core = core
        self.timing = timing or Timing()
        self._patience = patience
        self._most = most_devices
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-tune-")
        compiler = toolchain.find("aarch64", cc)
        flags = core.flags.get(compiler.kind, ())
        self._builder = Builder(compiler, flags, Path(self._folder.name))
        self._links: list[Link] = []
        self._batches = 0
        self.identity: timed.Identity | None = None
        self._doubts = timed.Doubts()

    @property
    def name(self) -> str:
        """The address, and what the device says of itself once it has been reached."""
        return self._said(f" at {self.address}")

    @property
    def kind(self) -> str:
        """See ``Device.kind``."""
        return self._said("")

    def _said(self, where: str) -> str:
        if self.identity is None:
            return f"device{where}"
        kind = "emulated device" if self.identity.emulated else "device"
        core = f", {self.identity.core}" if self.identity.core else ""
        return f"{kind}{where}{core}"

    @property
    def connections(self) -> int:
        """How often a device was connected to; more than there are devices if one was lost."""
        return sum(link.connections for link in self._links)

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Device.notes``."""
        found = []
        if self.identity is not None and self.identity.emulated:
            found.append("an emulated device: its times say nothing about a core")
        core = self.identity.core if self.identity is not None else ""
        if core and self.core.core is not None and core != self.core.name:
            found.append(
                f"the device runs candidates on {core}, not {self.core.name}: choose its cores by their"
                f" numbers with {self.address}?cpus=4-7"
            )
        return (*found, *self._doubts.notes)

    def measure(self, batch: Sequence[Candidate], progress: Progress | None = None) -> list[Measurement]:
        """See ``Device.measure``."""
        built = self._builder.objects(batch)
        self._batches += 1
        target = Path(self._folder.name, f"batch-{self._batches}.so")
        numbers, unlinked = self._builder.shared_object(batch, built, target, hosted=False)
        results: dict[int, Measurement] = {
            i: Measurement(batch[i].key, Status.FAILED_TO_BUILD, detail=reason)
            for i, reason in {**built.failures, **unlinked}.items()
        }
        if progress is not None and results:
            progress(len(results), len(batch))
        if numbers:
            run = _Batch(batch, numbers, target, self.timing, self._patience, results, progress)
            self._run(run)
            target.unlink(missing_ok=True)
        found = [results[i] for i in range(len(batch))]
        self._doubts.add(found)
        return found

    def _run(self, run: _Batch) -> None:
        links = self._open_links(len(run.waiting))
        threads = [threading.Thread(target=run.work, args=(link,), daemon=True) for link in links]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # with a limit, so that Ctrl-C is heard
                    thread.join(0.2)
        except BaseException:
            run.stopped = True
            for link in links:  # what they wait for will not be waited for
                link.close()
                self._links.remove(link)
            raise
        if run.error is not None:
            raise run.error
        self.identity = self.identity or run.identity
        run.give_up("no device was left")

    def _open_links(self, candidates: int) -> list[Link]:
        """As many connections as there are devices, and as have four candidates to measure."""
        wanted = 1
        if self.address.tracker:
            with contextlib.suppress(Mnv3cError):
                known = tracker.summary(self.address.host, self.address.port)
                here = next((len(d.addresses) for d in known if d.key == self.address.key), 1)
                wanted = max(1, min(here, self._most, candidates // 4))
        while len(self._links) < wanted:
            self._links.append(Link(self.address))
        return self._links[:wanted]

    def ping(self) -> tuple[float, timed.Identity]:
        """Seconds of a call, and what the device says of itself.

        Raises:
            Mnv3cError: no device answers.
        """
        target = Path(self._folder.name, "ping.so")
        self._builder.probe(target)
        link = self._open_links(1)[0]
        try:
            link.connect(self._patience)
            link.load(target)
            mask = timed.cpu_mask(self.timing.cpus)
            self.identity = timed.identity(link.ask(_CALL_SECONDS, "identify", mask))
            begin = time.monotonic()
            link.ask(_CALL_SECONDS, "identify", mask)
            return time.monotonic() - begin, self.identity
        except LinkLost as error:
            raise Mnv3cError(f"no device answers: {error}", str(self.address)) from None

    def close(self) -> None:
        """End all connections and remove temporary files."""
        for link in self._links:
            link.close()
        self._links.clear()
        self._folder.cleanup()


class _Away(Exception):
    """A device that measures nothing more in this batch; says why."""


class _Batch:
    """A batch while it is measured: what waits, and what is known. Shared by the threads of the links."""

    def __init__(
        self,
        batch: Sequence[Candidate],
        numbers: dict[int, int],
        target: Path,
        timing: Timing,
        patience: float,
        results: dict[int, Measurement],
        progress: Progress | None,
    ) -> None:
        self._batch, self._numbers, self._target = batch, numbers, target
        self._timing, self._patience, self._progress = timing, patience, progress
        self._results = results
        self._lock = threading.Lock()
        self.waiting = sorted(numbers)
        self.stopped = False
        self.identity: timed.Identity | None = None
        self.error: Exception | None = None

    def work(self, link: Link) -> None:
        """Measure what waits on one link until nothing does, or its device stays away."""
        done: list[int] = []
        try:
            for place in self._take():
                try:
                    measurement = self._one(link, place)
                except _Away as away:
                    self._put(place, Measurement(self._batch[place].key, Status.LOST, detail=str(away)))
                    return
                self._put(place, measurement)
                done.append(place)
            self._look_for_drift(link, done)
        except Exception as error:
            self.error = self.error or error
            self.stopped = True

    def _take(self) -> Iterator[int]:
        while True:
            with self._lock:
                if self.stopped or not self.waiting:
                    return
                place = self.waiting.pop(0)
            yield place

    def _put(self, place: int, measurement: Measurement) -> None:
        with self._lock:
            self._results[place] = measurement
            if self._progress is not None:
                self._progress(len(self._results), len(self._batch))

    def give_up(self, reason: str) -> None:
        """What no device took is lost."""
        while self.waiting:
            place = self.waiting.pop(0)
            self._put(place, Measurement(self._batch[place].key, Status.LOST, detail=reason))

    def _one(self, link: Link, place: int) -> Measurement:
        candidate = self._batch[place]
        reason = ""
        for _ in range(_ATTEMPTS):
            if self.stopped:
                raise _Away("interrupted")
            try:
                link.connect(self._patience)
            except LinkLost as error:
                raise _Away(f"the device did not come back within {self._patience:.0f} s: {error}") from None
            try:
                link.load(self._target)
                if self.identity is None:
                    mask = timed.cpu_mask(self._timing.cpus)
                    self.identity = timed.identity(link.ask(_CALL_SECONDS, "identify", mask))
                return self._measured(link, place)
            except LinkLost as error:
                reason = str(error)
            except Mnv3cError as error:
                raise _Away(error.message) from None
        detail = f"the connection broke {_ATTEMPTS} times while it was measured: {reason}"
        return Measurement(candidate.key, Status.LOST, detail=detail)

    def _measured(self, link: Link, place: int) -> Measurement:
        candidate = self._batch[place]
        data, size = timed.packed_inputs(candidate), timed.output_bytes(candidate)

        def call(timing: Timing) -> Raw:
            seconds = timed.WALL * timing.timeout_seconds + timing.cool_down_seconds + _CALL_SECONDS
            seconds += (len(data) + size) / _SLOWEST_LINK
            numbers = timed.REPORT_FIRST + timing.repeats
            code, report, outputs = link.ask(
                seconds, "measure", self._numbers[place], data, size, numbers, timed.settings(timing)
            )
            return timed.raw(candidate, code, report, outputs)

        return timed.steady(candidate, call, self._timing)

    def _look_for_drift(self, link: Link, done: Sequence[int]) -> None:
        """Measure the first good candidate of this link again."""
        first = next((i for i in done if self._results[i].ok), None)
        if first is None or len(done) < 2 or self.stopped:
            return
        try:
            again = self._measured(link, first)
        except LinkLost:
            return
        noted = timed.with_drift([self._results[i] for i in done], self._results[first], again, self._timing)
        with self._lock:
            self._results.update(zip(done, noted, strict=True))
