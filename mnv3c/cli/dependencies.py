"""What a compiled library depends on, for build systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mnv3c import resources
from mnv3c.errors import Mnv3cError
from mnv3c.paths import registry
from mnv3c.targets import Target


def source_names(name: str, target: Target, path: str | None, camera: str | None = None) -> list[str]:
    """The C files of a library of that name, known before anything is compiled.

    Raises:
        Mnv3cError: there is no such path.
    """
    if path:
        registry.load(path)
    paths = (path,) if path else registry.choose(target.paths, target.run_time_choice)
    with_camera = [f"{name}_camera.c"] if camera else []
    return [f"{name}.c", *with_camera, f"{name}_weights.c", *(f"{name}_{p}.c" for p in paths)]


def inputs(*given: str | None) -> list[Path]:
    """Files that the result depends on: those given, what is in a folder given, and mnv3c itself."""
    found: list[Path] = []
    for item in given:
        if item is None or not Path(item).exists():
            continue
        path = Path(item).resolve()
        found.append(path)
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.is_file())
    return [*found, *_own_files()]


def _own_files() -> Iterator[Path]:
    package = Path(__file__).resolve().parents[1]
    yield from sorted(package.rglob("*.py"))
    for folder in ("templates", "targets"):
        yield from sorted(p for p in resources.directory(folder).rglob("*") if p.is_file())


def check_depfile(file: Path) -> None:
    """Raise ``Mnv3cError`` if ``write_depfile`` could not write there."""
    there = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a"):
            pass
        if not there:
            file.unlink()
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(file)) from None


def write_depfile(file: Path, result: Path, dependencies: Iterable[Path]) -> None:
    """A rule in Make's syntax: ``result`` depends on ``dependencies``.

    Raises:
        Mnv3cError: the file cannot be written.
    """
    lines = [f"{_escape(result.resolve())}:", *(f"  {_escape(d)}" for d in dependencies)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(" \\\n".join(lines) + "\n")
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(file)) from None


def _escape(path: Path) -> str:
    return str(path).replace("\\", "/").replace(" ", "\\ ").replace("#", "\\#").replace("$", "$$")
