"""Building a batch: every candidate's C, renamed so that all fit into one program or shared object.

All public names of a generated library begin with its own name (``docs/output-format.md``), so a prefix given
by the preprocessor keeps candidates apart. A candidate's sources become one translation unit; its constants
become another, named by their contents: candidates of one layer mostly share them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mnv3c import resources
from mnv3c.codegen.emit import PATH_IDS
from mnv3c.codegen.render import render
from mnv3c.errors import Mnv3cError
from mnv3c.toolchain import Compiler
from mnv3c.toolchain.build import SUPPORT
from mnv3c.toolchain.compiler import run
from mnv3c.tuning.devices.base import Candidate

_FLAGS = ("-std=c11", "-O3", "-fvisibility=hidden")
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
# A constant that nobody reads brings all constants of its object to a fixed place in every cache.
_ALIGNED = "\n__attribute__((aligned(65536), used)) static const char mnv3c_alignment[64] = {1};\n"
_KEPT_OBJECTS = 512
# What most of a small kernel's compilation goes into; read once and kept in the compiler's own form.
_HEADERS = "#include <arm_neon.h>\n#include <stdint.h>\n#include <string.h>\n"


@dataclass(frozen=True)
class Unit:
    """A translation unit, and a name that is equal for equal contents."""

    text: str
    digest: str


@dataclass(frozen=True)
class Built:
    """Objects of the candidates that compiled, and what the others died of.

    Attributes:
        objects: of each candidate, by its place in the batch: its own and its constants'.
        symbols: place to the name of the candidate's run function.
        failures: place to the compiler's first error.
    """

    objects: Mapping[int, tuple[Path, ...]]
    symbols: Mapping[int, str]
    failures: Mapping[int, str]


def units(candidate: Candidate) -> tuple[str, tuple[Unit, ...]]:
    """The symbol of the candidate's run function, and its translation units.

    The symbol depends on the contents, so equal candidates have equal objects.
    """
    weights_file = f"{candidate.name}_weights.c"
    own = [f for f in sorted(candidate.sources) if f.endswith(".c") and f != weights_file]
    constants = _inline(candidate.sources, [weights_file]) if weights_file in candidate.sources else ""
    code = _inline(candidate.sources, own)
    defined = set(
        re.findall(rf"^_Alignas.* ({re.escape(candidate.name)}_\w+)\[\d+\] = ", constants, re.MULTILINE)
    )
    shared = _digest(constants)
    used = set(re.findall(rf"\b{re.escape(candidate.name)}_\w+", code))
    unique = _digest(code + constants)
    names = {
        n: f"{'w' if n in defined else 'c'}{shared if n in defined else unique}_{n}" for n in used | defined
    }
    built = [Unit(_renamed(names, used) + code, unique)]
    if constants:
        built.append(Unit(_renamed(names, defined) + constants, shared))
    return names[f"{candidate.name}_run"], tuple(built)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _renamed(names: Mapping[str, str], which: set[str]) -> str:
    return "".join(f"#define {n} {names[n]}\n" for n in sorted(which))


def _inline(sources: Mapping[str, str], files: Sequence[str]) -> str:
    """The files one behind the other, with each of the library's own headers in place of its first use."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        def include(match: re.Match[str]) -> str:
            if match[1] not in sources or match[1] in seen:
                return ""
            seen.add(match[1])
            return expand(match[1])

        return _INCLUDE.sub(include, sources[name])

    return "\n".join(expand(name) for name in files)


class Builder:
    """Compiles candidates for one CPU; keeps objects, because searches come back to candidates.

    Args:
        flags: for the CPU.
        folder: for objects; the caller's to remove.
        align_constants: so that the place of a candidate in a batch does not decide which of its
            constants share a set of a cache.
    """

    def __init__(
        self, compiler: Compiler, flags: Sequence[str], folder: Path, *, align_constants: bool = False
    ) -> None:
        self.compiler = compiler
        self._flags = (*_FLAGS, *flags)
        self._folder = folder
        self._pad = _ALIGNED if align_constants else ""
        self._known: dict[str, Path] = {}
        self._own: dict[Path, Path] = {}
        self._prefix = self._precompiled()

    def objects(self, batch: Sequence[Candidate], told: Callable[[], None] | None = None) -> Built:
        """Compile each candidate; ``told`` is called as each is done."""

        def one(candidate: Candidate) -> tuple[str, tuple[Path, ...]] | str:
            try:
                symbol, parts = units(candidate)
                return symbol, tuple(self._object(u) for u in parts)
            except (Mnv3cError, KeyError) as error:
                return error.message if isinstance(error, Mnv3cError) else f"the library has no {error}"
            finally:
                if told is not None:
                    told()

        self._forget()
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            found = list(pool.map(one, batch))
        return Built(
            {i: f[1] for i, f in enumerate(found) if not isinstance(f, str)},
            {i: f[0] for i, f in enumerate(found) if not isinstance(f, str)},
            {i: f for i, f in enumerate(found) if isinstance(f, str)},
        )

    def table(self, batch: Sequence[Candidate], symbols: Sequence[str]) -> Path:
        """The C source of the table of ``templates/tuning/batch.h``."""
        entries = [
            {
                "run": symbol,
                "path": PATH_IDS[c.path],
                "inputs": len(c.inputs),
                "outputs": len(c.outputs),
                "bytes": [t.bytes for t in (*c.inputs, *c.outputs)],
                "arena_bytes": c.arena_bytes,
                "layers": c.layers,
            }
            for c, symbol in zip(batch, symbols, strict=True)
        ]
        text = render("tuning/batch.c.j2", candidates=entries)
        source = self._folder / f"batch-{_digest(text)}.c"
        source.write_text(text)
        return source

    def shared_object(
        self, batch: Sequence[Candidate], built: Built, target: Path, *, hosted: bool
    ) -> tuple[dict[int, int], dict[int, str]]:
        """Link the shim and all candidates that compiled.

        Args:
            hosted: for this machine and its C library; else for any 64-bit Arm Linux, without one.

        Returns:
            The place in the batch of each candidate to its number in the object; and places of candidates
            that do not link to the linker's first error.
        """
        return self.link(batch, built, target, *self._shim(hosted))

    def bare_object(
        self, batch: Sequence[Candidate], built: Built, target: Path
    ) -> tuple[dict[int, int], dict[int, str]]:
        """Link the candidates alone, without a C library, for an emulator in this process."""
        (_, support), arguments = self._shim(hosted=False)
        return self.link(batch, built, target, (support,), arguments)

    def probe(self, target: Path) -> None:
        """A shared object without candidates, for any 64-bit Arm Linux: it tells what the device is."""
        own, arguments = self._shim(hosted=False)
        self._link_empty(target, own, arguments)

    def program(self, target: Path, harness: Path, arguments: Sequence[str]) -> None:
        """``harness`` without candidates."""
        self._link_empty(target, (harness,), arguments)

    def _link_empty(self, target: Path, own: Sequence[Path], arguments: Sequence[str]) -> None:
        table = self.own_object(self.table([], []))
        run(self.compiler, [*self._flags, *arguments, *map(str, (*own, table)), "-o", str(target)], "linking")

    def link(
        self,
        batch: Sequence[Candidate],
        built: Built,
        target: Path,
        own: Sequence[Path],
        arguments: Sequence[str],
    ) -> tuple[dict[int, int], dict[int, str]]:
        """Link the candidates that compiled with the objects ``own``; as ``shared_object``.

        One that keeps the others from linking is found by halving.
        """

        def attempt(places: Sequence[int], output: Path) -> str | None:
            source = self.table([batch[i] for i in places], [built.symbols[i] for i in places])
            table = self.own_object(source)
            source.unlink()
            objects = dict.fromkeys(str(o) for i in places for o in built.objects[i])
            try:
                command = [*self._flags, *arguments, *map(str, (*own, table)), *objects, "-o", str(output)]
                run(self.compiler, command, "linking")
            except Mnv3cError as error:
                return error.message
            finally:
                table.unlink()
            return None

        def linkable(places: Sequence[int]) -> tuple[list[int], dict[int, str]]:
            error = attempt(places, self._folder / f"trial-{threading.get_ident()}")
            if error is None:
                return list(places), {}
            if len(places) == 1:
                return [], {places[0]: error}
            half = len(places) // 2
            first, second = linkable(places[:half]), linkable(places[half:])
            return first[0] + second[0], {**first[1], **second[1]}

        places = sorted(built.objects)
        failures: dict[int, str] = {}
        if places and (error := attempt(places, target)) is not None:
            places, failures = linkable(places)
            if places and (error := attempt(places, target)) is not None:
                raise Mnv3cError(error, self.compiler.name)
        return {place: number for number, place in enumerate(places)}, failures

    def own_object(self, source: Path, flags: Sequence[str] = ()) -> Path:
        """An object of one of our own sources; one that does not compile is a bug of ours."""
        target = self._folder / f"{source.stem}.o"
        include = f"-I{resources.directory('templates') / 'tuning'}"
        command = [*self._flags, "-fPIC", *flags, include, "-c", str(source), "-o", str(target)]
        run(self.compiler, command, f"compiling {source.name}")
        return target

    def _shim(self, hosted: bool) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Objects and arguments that make a shared object of a batch."""
        shim = resources.directory("templates") / "tuning" / "shim.c"
        defined = ("-Wl,-z,defs",) if platform.system() == "Linux" or not hosted else ()
        if hosted:
            own = self._once(shim, ("-D_GNU_SOURCE",))
            return (own,), ("-shared", *defined)
        bare = ("-fno-stack-protector", "-fno-builtin")
        support = self._once(SUPPORT, (*bare, "-fvisibility=default"))
        arguments = ("-shared", "-nostdlib", *defined, "-Wl,-z,max-page-size=65536")
        return (self._once(shim, (*bare, "-DMNV3C_FREESTANDING")), support), arguments

    def _once(self, source: Path, flags: Sequence[str]) -> Path:
        if source not in self._own:
            self._own[source] = self.own_object(source, flags)
        return self._own[source]

    def _object(self, unit: Unit) -> Path:
        target = self._folder / f"{unit.digest}.o"
        if unit.digest not in self._known:
            source = self._folder / f"{unit.digest}.{threading.get_ident()}.c"
            partial = source.with_suffix(".o")
            source.write_text(unit.text + self._pad)
            try:
                command = [*self._flags, *self._prefix, "-fPIC", "-c", str(source), "-o", str(partial)]
                run(self.compiler, command, "compiling")
            finally:
                source.unlink()
            partial.replace(target)
        self._known.pop(unit.digest, None)
        self._known[unit.digest] = target  # the last one used is the last to be forgotten
        return target

    def _forget(self) -> None:
        """Keep the folder small: a search makes thousands of candidates."""
        while len(self._known) > _KEPT_OBJECTS:
            digest = next(iter(self._known))
            self._known.pop(digest).unlink(missing_ok=True)

    def _precompiled(self) -> tuple[str, ...]:
        """Arguments that read the headers of all candidates in the compiler's own form, where it can."""
        header = self._folder / "headers.h"
        header.write_text(f"#if defined(__aarch64__)\n{_HEADERS}#endif\n")
        kinds = {"gcc": ("headers.h.gch", ("-include", str(header)))}
        kinds["clang"] = ("headers.pch", ("-include-pch", str(self._folder / "headers.pch")))
        if self.compiler.kind not in kinds:
            return ()
        output, use = kinds[self.compiler.kind]
        try:
            command = [*self._flags, "-fPIC", "-x", "c-header", str(header), "-o", str(self._folder / output)]
            run(self.compiler, command, "compiling headers")
        except Mnv3cError:
            return ()
        return use
