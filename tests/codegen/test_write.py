"""A library folder is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError

MANIFEST = '{"mnv3c": "0"}'


def test_replaces_a_library_and_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a" / "library"
    write_folder(target, {"manifest.json": MANIFEST, "old.c": "old"})
    write_folder(target, {"manifest.json": MANIFEST, "sub/new.c": "new"})
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == ["manifest.json", "new.c"]
    assert [p.name for p in target.parent.iterdir()] == ["library"]


def test_refuses_what_is_not_a_library(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(Mnv3cError, match="not a library of ours"):
        write_folder(tmp_path, {"manifest.json": MANIFEST})
    with pytest.raises(Mnv3cError, match="not a folder"):
        write_folder(tmp_path / "precious.txt", {"manifest.json": MANIFEST})
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', "[]", "no JSON"])
def test_another_programs_manifest_makes_no_library(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(Mnv3cError, match="not a library of ours"):
        write_folder(tmp_path, {"manifest.json": MANIFEST})
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_the_current_folder_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "library"
    target.mkdir()
    monkeypatch.chdir(target)
    number = target.stat().st_ino
    for content in ("old", "new"):
        write_folder(Path(), {"manifest.json": MANIFEST, f"{content}.c": content, "sub/a.h": ""})
        assert sorted(p.name for p in Path.cwd().iterdir()) == ["manifest.json", f"{content}.c", "sub"]
    assert target.stat().st_ino == number
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_a_failed_exchange_in_the_current_folder_keeps_the_old_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "library"
    write_folder(target, {"manifest.json": MANIFEST, "a.c": "old"})
    monkeypatch.chdir(target)
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if to.parent == target and self.suffix == ".c" and self.read_text() == "new":
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, {"manifest.json": MANIFEST, "a.c": "new"})
    assert (target / "a.c").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_a_failed_exchange_keeps_the_old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "library"
    write_folder(target, {"manifest.json": MANIFEST, "a.c": "old"})
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if to == target and (self / "a.c").read_text() == "new":
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, {"manifest.json": MANIFEST, "a.c": "new"})
    assert (target / "a.c").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_a_failure_half_way_leaves_the_old_library(tmp_path: Path) -> None:
    target = tmp_path / "library"
    write_folder(target, {"manifest.json": MANIFEST})
    with pytest.raises(Mnv3cError, match="cannot write"):
        # A file cannot also be a folder: the second write fails after the first succeeded.
        write_folder(target, {"manifest.json": "second", "x": "file", "x/y": "below it"})
    assert (target / "manifest.json").read_text() == MANIFEST
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_names_the_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Mnv3cError, match="file/library"):
        write_folder(tmp_path / "file" / "library", {"manifest.json": MANIFEST})
