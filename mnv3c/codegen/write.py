"""A library folder on disk: written beside and renamed, so that it is never half there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mnv3c.errors import Mnv3cError

# A folder is ours to replace if this file in it says so.
MANIFEST = "manifest.json"


def write_folder(target: Path, files: Mapping[str, str | bytes]) -> None:
    """Write ``files`` (relative path to contents) as the folder ``target``, all or nothing.

    An existing library is replaced; an empty folder is used; any other existing path is refused.

    Raises:
        Mnv3cError: the place cannot be written, or holds something that is not ours.
    """
    target = target.absolute()
    check_replaceable(target)
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        for relative, content in files.items():
            file = staging / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        staging.chmod(0o755)
        _swap(staging, target)
    except OSError as error:
        raise Mnv3cError(f"cannot write the library: {error.strerror or error}", str(target)) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def check_replaceable(target: Path) -> None:
    """Raise ``Mnv3cError`` if ``target`` is there and is not a library of ours, or an empty folder."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        raise Mnv3cError("exists and is not a folder", str(target))
    try:
        ours = _is_library(target) or not any(target.iterdir())
    except OSError as error:
        raise Mnv3cError(f"cannot be read: {error.strerror}", str(target)) from error
    if not ours:
        raise Mnv3cError(
            f"exists and holds no {MANIFEST} of mnv3c's: not a library of ours, not replaced", str(target)
        )


def _is_library(folder: Path) -> bool:
    """Whether the manifest is ours: web applications and browser extensions have one of that name too."""
    file = folder / MANIFEST
    if not file.is_file():
        return False
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and "mnv3c" in manifest


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    if target.samefile(Path.cwd()):
        _swap_contents(staging, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "library"
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:  # an interrupt, too, must not cost the old library
        old.rename(target)
        old.parent.rmdir()
        raise
    shutil.rmtree(old.parent, ignore_errors=True)


def _swap_contents(staging: Path, target: Path) -> None:
    """Exchange what is in the folder: it is the current one, which whoever called us is in and stays in."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        for entry in sorted(target.iterdir()):
            entry.rename(old / entry.name)
        for entry in sorted(staging.iterdir()):
            entry.rename(target / entry.name)
    except BaseException:
        for entry in target.iterdir():
            entry.rename(staging / entry.name)
        for entry in old.iterdir():
            entry.rename(target / entry.name)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
