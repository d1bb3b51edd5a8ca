"""Running a library in a process of its own: under qemu, or directly on an Arm machine."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnv3c import toolchain
from mnv3c.camera import Frame
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.errors import Mnv3cError
from mnv3c.runners.base import RunFault, cpu_for
from mnv3c.runners.frames import check_frame, pack_frame, readable
from mnv3c.runners.library import Library, TensorInfo

HARNESS = Path(__file__).with_name("harness.c")
# What the harness is given to run.
_TENSORS, _FRAMES, _IMAGES = 0, 1, 2
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
        names = [f"-DRUN={library.name}_run", f"-DBEST_PATH={library.name}_best_path"]
        if "camera" in library.manifest:
            names += [
                f"-DRUN_CAMERA={library.name}_run_camera",
                f"-DCAMERA_IMAGE={library.name}_camera_image",
            ]
        self._pointer = "I" if cpu.arch == "armv7" else "Q"
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
        data = b"".join(a.tobytes() for arrays in checked for a in arrays)
        return self._start(data, len(batches), _TENSORS, self.library.outputs)

    def run_camera(self, frame: Frame) -> list[np.ndarray]:
        """See ``Runner.run_camera``."""
        return self._start(self._frames([frame]), 1, _FRAMES, self.library.outputs)[0]

    def camera_image(self, frame: Frame) -> np.ndarray:
        """See ``Runner.camera_image``."""
        return self.camera_images([frame])[0]

    def camera_images(self, frames: Sequence[Frame]) -> list[np.ndarray]:
        """Several in one process."""
        results = self._start(self._frames(frames), len(frames), _IMAGES, self.library.inputs)
        return [images[0] for images in results]

    def _frames(self, frames: Sequence[Frame]) -> bytes:
        pieces = []
        for frame in frames:
            check_frame(self.library, frame)
            planes = readable(frame)
            counts = [len(planes), *(p.size for p in planes)]
            struct_ = pack_frame(frame, [0] * len(planes), pointer=self._pointer)
            pieces += [struct.pack(f"<{len(counts)}i", *counts), struct_, *(p.tobytes() for p in planes)]
        return b"".join(pieces)

    def _start(
        self, data: bytes, runs: int, camera: int, results: tuple[TensorInfo, ...]
    ) -> list[list[np.ndarray]]:
        source, sink = Path(self._folder.name, "in.bin"), Path(self._folder.name, "out.bin")
        source.write_bytes(data)
        library = self.library
        path = PATH_IDS[self.path] if len(library.paths) > 1 else 0
        command = [*self._prefix, str(self._program), str(source), str(sink)]
        numbers = (self._runs, runs, path, int(self.parallel), camera, library.arena_bytes)
        command += [str(n) for n in numbers]
        self._runs += runs
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
        return _read(sink.read_bytes(), runs, results)

    def best_path(self) -> str:
        """The path that the library itself takes on this CPU; known after a run."""
        return next((p for p, i in PATH_IDS.items() if str(i) == self._best), f"number {self._best}")

    def _fault(self, what: str) -> RunFault:
        return RunFault(f"path {self.path} on {self.where}: {what}")

    def close(self) -> None:
        """Remove the program."""
        self._folder.cleanup()


def _read(data: bytes, runs: int, tensors: tuple[TensorInfo, ...]) -> list[list[np.ndarray]]:
    results, at = [], 0
    for _ in range(runs):
        outputs = []
        for t in tensors:
            array = np.frombuffer(data, np.dtype(t.dtype), int(np.prod(t.shape)), at)
            outputs.append(array.reshape(t.shape).copy())
            at += t.bytes
        results.append(outputs)
    return results


def _sizes(tensors: tuple[TensorInfo, ...]) -> list[str]:
    pairs = [(str(t.bytes), str(np.dtype(t.dtype).itemsize)) for t in tensors]
    return [str(len(tensors)), *(n for pair in pairs for n in pair)]


def _failure(code: int, lines: list[str]) -> str:
    # The emulator, or a shell in between, may report a signal as 128 + its number.
    number = -code if code < 0 else code - 128
    if number in _SIGNALS:
        return _SIGNALS[signal.Signals(number)]
    return lines[-1] if lines else f"exit code {code}"
