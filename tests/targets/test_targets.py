"""Target descriptions: complete, consistent, and found by the names people type."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mnv3c import targets
from mnv3c.errors import Mnv3cError

CORES = ("a53", "a55", "a72", "a76", "a78", "x1", "a510", "a710")


def test_every_required_core_and_the_generic_platform_are_there() -> None:
    assert set(targets.names()) >= {f"cortex-{c}" for c in CORES} | {"arm64"}
    assert targets.names()[0] == "arm64"


@pytest.mark.parametrize("target", targets.every(), ids=lambda t: t.name)
def test_paths_follow_from_features(target: targets.Target) -> None:
    assert target.paths[-1] == "ref"
    if not target.run_time_choice:
        assert ("dotprod" in target.paths) == ("dotprod" in target.features)
        assert ("i8mm" in target.paths) == ("i8mm" in target.features)
    order = ["i8mm", "dotprod", "neon", "armv7", "ref"]
    assert list(target.paths) == [p for p in order if p in target.paths]
    assert set(target.flags) == {"gcc", "clang", "zig"}
    assert (target.core is not None) == (target.kind == "core")


def test_dot_product_starts_with_armv8_2() -> None:
    without = {t.name for t in targets.every() if t.core and "dotprod" not in t.features}
    assert without == {"cortex-a53", "cortex-a72"}
    with_i8mm = {t.name for t in targets.every() if "i8mm" in t.features}
    assert with_i8mm == {"cortex-a510", "cortex-a710"}


@pytest.mark.parametrize("typed", ["cortex-a76", "a76", "Cortex_A76", " A76 "])
def test_spelling_is_forgiven(typed: str) -> None:
    assert targets.get(typed).name == "cortex-a76"


def test_unknown_target_lists_names_and_close_matches() -> None:
    with pytest.raises(Mnv3cError) as caught:
        targets.get("cortex-a75")
    assert "did you mean cortex-a7" in caught.value.message
    assert all(name in caught.value.message for name in targets.names())
    assert caught.value.place == "--target"


def test_broken_description_names_the_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "x"\n')
    with pytest.raises(Mnv3cError, match=r"bad\.toml: field 'description' is missing"):
        targets.read(bad)
    bad.write_text("= nonsense")
    with pytest.raises(Mnv3cError, match="not a target description"):
        targets.read(bad)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no aarch64-linux-gnu-gcc")
def test_gcc_knows_the_flags_and_agrees_about_dot_product() -> None:
    for target in targets.every():
        if target.kind != "core":
            continue
        command = ["aarch64-linux-gnu-gcc", *target.flags["gcc"], "-dM", "-E", "-xc", "/dev/null"]
        macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for feature, macro in {"dotprod": "DOTPROD", "i8mm": "MATMUL_INT8"}.items():
            assert (f"__ARM_FEATURE_{macro} 1" in macros) == (feature in target.features), target.name
