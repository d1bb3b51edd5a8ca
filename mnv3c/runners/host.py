"""Running the portable ``ref`` path on whatever this machine is, inside this process, at full speed."""

from __future__ import annotations

import copy
import ctypes
import tempfile
from pathlib import Path

import numpy as np

from mnv3c import toolchain
from mnv3c.camera import Frame
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.errors import Mnv3cError
from mnv3c.runners.base import ARENA_ALIGN, RunFault, junk
from mnv3c.runners.frames import check_frame, pack_frame, readable
from mnv3c.runners.library import Library

_GUARD = 256  # bytes of junk on both sides of a buffer, checked after each run


class _Exec(ctypes.Structure):
    _fields_ = (
        ("parallel_for", ctypes.c_void_p),
        ("parallel_ctx", ctypes.c_void_p),
        ("on_layer", ctypes.c_void_p),
        ("layer_ctx", ctypes.c_void_p),
        ("path", ctypes.c_int32),
    )


_SHARE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
_PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, _SHARE, ctypes.c_void_p)


@_PARALLEL_FOR
def _reversed(ctx: int, n: int, share: ctypes._FuncPointer, arg: int) -> None:
    for i in range(n - 1, -1, -1):
        share(arg, i)


def _frame(frame: Frame) -> tuple[ctypes.Array[ctypes.c_char], list[np.ndarray]]:
    """The struct, and the planes that it points to, which have to be kept."""
    planes = [np.ascontiguousarray(p) for p in readable(frame)]
    return ctypes.create_string_buffer(pack_frame(frame, [p.ctypes.data for p in planes])), planes


class _Buffer:
    """A buffer with guards, aligned to ``align``."""

    def __init__(self, what: str, size: int, align: int) -> None:
        self.what, self.size = what, size
        self._memory = np.empty(size + 2 * _GUARD + align, np.uint8)
        self._start = _GUARD + -(self._memory.ctypes.data + _GUARD) % align
        self.address = self._memory.ctypes.data + self._start
        self._before = self._memory

    def prepare(self, seed: int) -> None:
        self._before = junk(self._memory.size, seed)
        self._memory[:] = self._before

    @property
    def data(self) -> np.ndarray:
        return self._memory[self._start : self._start + self.size]

    def stray_write(self) -> int | None:
        """Offset of a byte outside the buffer that was changed, or ``None``."""
        changed = np.flatnonzero(self._memory != self._before)
        end = self._start + self.size
        outside = changed[(changed < self._start) | (changed >= end)]
        return int(outside[0]) - self._start if outside.size else None


class HostRunner:
    """Builds the library as a shared object for this machine and calls it through ctypes."""

    name = "host"

    def __init__(
        self, library: Library, path: str = "ref", *, cc: str | None = None, parallel: bool = False
    ) -> None:
        """Args:
        path: must be ``ref``.
        parallel: hand in a ``parallel_for``, which runs the shares of a layer in reverse order.
        """
        if path != "ref":
            raise Mnv3cError("only the ref path runs on any machine", f"path {path}")
        self.library, self.path, self.where = library, path, "this machine"
        self._runs = 0
        sources = library.sources
        if len(library.paths) > 1 and not toolchain.compiler.host_is_arm():
            raise Mnv3cError("the library carries paths that are not for this machine", f"path {path}")
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3c-")
        output = Path(self._folder.name, f"{library.name}.so")
        toolchain.build_shared(toolchain.find("host", cc), sources, output)
        loaded = ctypes.CDLL(str(output))
        self._function = getattr(loaded, f"{library.name}_run")
        self._function.argtypes = [ctypes.c_void_p] * 4
        self._function.restype = ctypes.c_int
        self._camera = self._camera_image = None
        if "camera" in library.manifest:
            self._camera = getattr(loaded, f"{library.name}_run_camera")
            self._camera.argtypes, self._camera.restype = [ctypes.c_void_p] * 4, ctypes.c_int
            self._camera_image = getattr(loaded, f"{library.name}_camera_image")
            self._camera_image.argtypes, self._camera_image.restype = [ctypes.c_void_p] * 3, ctypes.c_int
        self.parallel = parallel
        self._allocate()

    def _allocate(self) -> None:
        library = self.library
        self._exec = _Exec(path=PATH_IDS[self.path])
        self._inputs = [_Buffer(f"input {t.name}", t.bytes, 64) for t in library.inputs]
        self._outputs = [_Buffer(f"output {t.name}", t.bytes, 64) for t in library.outputs]
        self._arena = _Buffer("arena", library.arena_bytes, ARENA_ALIGN)

    def another(self) -> HostRunner:
        """A runner of the same build with memory of its own, for another thread; valid until ``close``."""
        other = copy.copy(self)
        other._allocate()
        return other

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """See ``Runner.run``."""
        return self._run(self.library.check_inputs(inputs), None)

    def run_camera(self, frame: Frame) -> list[np.ndarray]:
        """See ``Runner.run_camera``."""
        check_frame(self.library, frame)
        return self._run([], frame)

    def camera_image(self, frame: Frame) -> np.ndarray:
        """See ``Runner.camera_image``."""
        check_frame(self.library, frame)
        assert self._camera_image is not None
        info = self.library.inputs[0]
        image = np.empty(info.shape, info.dtype)
        self._arena.prepare(self._runs * 131)
        self._runs += 1
        struct, _planes = _frame(frame)
        status = self._camera_image(ctypes.addressof(struct), image.ctypes.data, self._arena.address)
        if status:
            raise RunFault(f"path {self.path} on {self.where}: {self.library.name}_camera_image: {status}")
        return image

    def _run(self, arrays: list[np.ndarray], frame: Frame | None) -> list[np.ndarray]:
        every = [*self._inputs, *self._outputs, self._arena]
        for i, buffer in enumerate(every):
            buffer.prepare(self._runs * 131 + i)
        for buffer, array in zip(self._inputs, arrays, strict=False):
            buffer.data[:] = np.frombuffer(array.tobytes(), np.uint8)
        sources = (ctypes.c_void_p * len(self._inputs))(*(b.address for b in self._inputs))
        sinks = (ctypes.c_void_p * len(self._outputs))(*(b.address for b in self._outputs))
        self._exec.parallel_for = ctypes.cast(_reversed, ctypes.c_void_p) if self.parallel else None
        function, given, planes = self._function, ctypes.addressof(sources), None
        if frame is not None:
            assert self._camera is not None
            struct, planes = _frame(frame)
            function, given = self._camera, ctypes.addressof(struct)
        status = function(given, sinks, self._arena.address, ctypes.byref(self._exec))
        del planes
        self._runs += 1
        if status:
            raise RunFault(f"path {self.path} on {self.where}: {self.library.name}_run returned {status}")
        for buffer in every:
            stray = buffer.stray_write()
            if stray is not None:
                what = f"wrote outside: {buffer.what}[{stray}] of {buffer.size} bytes"
                raise RunFault(f"path {self.path} on {self.where}: {what}")
        return [
            b.data.copy().view(np.dtype(t.dtype)).reshape(t.shape)
            for b, t in zip(self._outputs, self.library.outputs, strict=True)
        ]

    def close(self) -> None:
        """Remove the shared object's file."""
        self._folder.cleanup()
