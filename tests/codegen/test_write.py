"""A library folder is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv3c.codegen.write import write_folder
from mnv3c.errors import Mnv3cError


def test_replaces_a_library_and_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a" / "library"
    write_folder(target, {"manifest.json": "{}", "old.c": "old"})
    write_folder(target, {"manifest.json": "{}", "sub/new.c": "new"})
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == ["manifest.json", "new.c"]
    assert [p.name for p in target.parent.iterdir()] == ["library"]


def test_refuses_what_is_not_a_library(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(Mnv3cError, match="not a library of ours"):
        write_folder(tmp_path, {"manifest.json": "{}"})
    with pytest.raises(Mnv3cError, match="not a folder"):
        write_folder(tmp_path / "precious.txt", {"manifest.json": "{}"})
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_failure_half_way_leaves_the_old_library(tmp_path: Path) -> None:
    target = tmp_path / "library"
    write_folder(target, {"manifest.json": "first"})
    with pytest.raises(Mnv3cError, match="cannot write"):
        # A file cannot also be a folder: the second write fails after the first succeeded.
        write_folder(target, {"manifest.json": "second", "x": "file", "x/y": "below it"})
    assert (target / "manifest.json").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_names_the_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Mnv3cError, match="file/library"):
        write_folder(tmp_path / "file" / "library", {"manifest.json": "{}"})
