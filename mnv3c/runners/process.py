"""Running a library in a process of its own: under qemu, or directly on an Arm machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from mnv3c import toolchain
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.errors import Mnv3cError
from mnv3c.runners.base import RunFault, cpu_for
from mnv3c.runners.library import Library, TensorInfo

HARNESS = Path(__file__).with_name("harness.c")
_SIGNALS = {
    signal.SIGILL: "illegal instruction",
    signal.SIGSEGV: "bad memory access",
    signal.SIGBUS: "bad memory access",
    signal.SIGABRT: "abort",
}


_EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}


def qemu(arch: str = "aarch64") -> str | None:
    """The user-mode emulator for ``aarch64`` or ``armv7``, if it is installed."""
    return shutil.which(_EMULATORS[arch]) or shutil.which(f"{_EMULATORS[arch]}-static")


class ProcessRunner:
    """Builds ``harness.c`` with the library into one program and runs that.

    The harness guards buffers as ``UnicornRunner`` does.
    """

    def __init__(
        self,
        library: Library,
        path: str,
        *,
        emulate: bool = True,
        core: str | None = None,
        cc: str | None = None,
        timeout: float = 900.0,
        parallel: bool = False,
    ) -> None:
        """Args:
        emulate: under ``qemu-aarch64`` or ``qemu-arm``; else directly, which needs an Arm machine.
        core: CPU to emulate, from ``targets/``.
        timeout: seconds a call of ``run`` or ``run_many`` may take.
        parallel: hand in a ``parallel_for``, which runs the shares of a layer in reverse order.
        """
        self.library = library
        self.path = path
        self.name = "qemu" if emulate else "native"
        cpu = cpu_for(library, path, core)
        self._prefix: list[str] = []
        if emulate:
            emulator = qemu(cpu.arch)
            if emulator is None:
                raise Mnv3cError(
                    f"{_EMULATORS[cpu.arch]} is not installed (Debian: qemu-user)", f"path {path}"
                )
            self._prefix = [emulator, "-cpu", cpu.qemu]
        self.where = f"{cpu.core} (qemu, {cpu.qemu})" if emulate else "this machine"
        self._timeout = timeout
        self.parallel = parallel
        self._best = ""
        self._runs = 0
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-")
        compiler = toolchain.find(cpu.arch, cc)
        names = (f"-DRUN={library.name}_run", f"-DBEST_PATH={library.name}_best_path")
        self._program = toolchain.build_executable(
            compiler,
            [*library.sources, HARNESS],
            Path(self._folder.name, "program"),
            flags=(*cpu.flags[compiler.kind], *names),
        )

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """See ``Runner.run``."""
        return self.run_many([inputs])[0]

    def run_many(self, batches: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """Several inferences in one process: building is slow, starting is not free."""
        checked = [self.library.check_inputs(inputs) for inputs in batches]
        source, sink = Path(self._folder.name, "in.bin"), Path(self._folder.name, "out.bin")
        source.write_bytes(b"".join(a.tobytes() for arrays in checked for a in arrays))
        library = self.library
        path = PATH_IDS[self.path] if len(library.paths) > 1 else 0
        command = [*self._prefix, str(self._program), str(source), str(sink)]
        command += [str(n) for n in (self._runs, len(batches), path, int(self.parallel), library.arena_bytes)]
        self._runs += len(batches)
        command += [*_sizes(library.inputs), *_sizes(library.outputs)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self._timeout, check=False)
        except subprocess.TimeoutExpired:
            raise self._fault(f"did not end within {self._timeout:g} s") from None
        except OSError as error:
            raise Mnv3cError(f"cannot run: {error}", command[0]) from None
        lines = done.stderr.strip().splitlines()
        if lines and lines[0].startswith("best path "):
            self._best = lines[0].removeprefix("best path ")
        if done.returncode:
            raise self._fault(_failure(done.returncode, lines))
        return self._read(sink.read_bytes(), len(batches))

    def best_path(self) -> str:
        """The path that the library itself takes on this CPU; known after a run."""
        return next((p for p, i in PATH_IDS.items() if str(i) == self._best), f"number {self._best}")

    def _read(self, data: bytes, runs: int) -> list[list[np.ndarray]]:
        results, at = [], 0
        for _ in range(runs):
            outputs = []
            for t in self.library.outputs:
                array = np.frombuffer(data, np.dtype(t.dtype), int(np.prod(t.shape)), at)
                outputs.append(array.reshape(t.shape).copy())
                at += t.bytes
            results.append(outputs)
        return results

    def _fault(self, what: str) -> RunFault:
        return RunFault(f"path {self.path} on {self.where}: {what}")

    def close(self) -> None:
        """Remove the program."""
        self._folder.cleanup()


def _sizes(tensors: tuple[TensorInfo, ...]) -> list[str]:
    pairs = [(str(t.bytes), str(np.dtype(t.dtype).itemsize)) for t in tensors]
    return [str(len(tensors)), *(n for pair in pairs for n in pair)]


def _failure(code: int, lines: list[str]) -> str:
    # The emulator, or a shell in between, may report a signal as 128 + its number.
    number = -code if code < 0 else code - 128
    if number in _SIGNALS:
        return _SIGNALS[signal.Signals(number)]
    return lines[-1] if lines else f"exit code {code}"
