"""The emitted library keeps its contract (docs/output-format.md)."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mnv3c.codegen.library import build_library
from mnv3c.codegen.write import write_folder
from mnv3c.ir.graph import Graph
from mnv3c.reference import integer
from tests.codegen.host import COMPILERS, STRICT, command_line, run, sources
from tests.codegen.networks import classifier, doors
from tests.graphs import random_inputs


def write(graph: Graph, folder: Path) -> Path:
    write_folder(folder, build_library(graph, ["ref"]).files)
    return folder


def run_cli(program: Path, graph: Graph, folder: Path, seed: int = 0) -> tuple[bytes, bytes]:
    """Bytes that the example program wrote, and bytes that the reference says."""
    values = random_inputs(graph, seed)
    (folder / "in.bin").write_bytes(b"".join(values[n].tobytes() for n in graph.inputs))
    run(program, folder / "in.bin", folder / "out.bin", 3)
    want = integer.run(graph, values)
    assert all(v.std() > 0 for v in want.values()), "a constant output proves nothing"
    return (folder / "out.bin").read_bytes(), b"".join(want[n].tobytes() for n in graph.outputs)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("make", [classifier, doors])
@pytest.mark.slow
def test_bits_equal_the_reference_under_sanitizers(cc: str, make: type, tmp_path: Path) -> None:
    graph = make()
    folder = write(graph, tmp_path / "library")
    program = command_line(
        cc, folder, tmp_path / "cli", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"
    )
    for seed in range(3):
        got, want = run_cli(program, graph, tmp_path, seed)
        assert got == want


def test_same_bytes_from_two_folders(tmp_path: Path) -> None:
    a, b = write(classifier(), tmp_path / "a"), write(classifier(), tmp_path / "elsewhere" / "b")
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
        assert str(tmp_path).encode() not in (a / name).read_bytes(), name


@pytest.mark.parametrize("cc", COMPILERS)
def test_symbols_are_prefixed_and_nothing_is_written(cc: str, tmp_path: Path) -> None:
    folder = write(classifier(), tmp_path / "library")
    run(cc, *STRICT, "-O2", "-fPIC", "-c", *sources(folder), cwd=tmp_path)
    defined, undefined = set(), set()
    for line in run("nm", *sorted(tmp_path.glob("*.o"))).splitlines():
        match = re.fullmatch(r"[0-9a-f ]* ([a-zA-Z]) (\S+)", line)
        if match is None:
            continue
        kind, symbol = match.groups()
        if kind == "U":
            undefined.add(symbol)
        elif kind.isupper():
            defined.add(symbol)
        assert kind.upper() not in "BDCSG", f"writable data: {line}"
    assert all(s.startswith("net_") for s in defined), defined
    outside = {s for s in undefined - defined if s != "_GLOBAL_OFFSET_TABLE_"}
    assert outside <= {"memcpy", "memset"}, outside


@pytest.mark.parametrize("cxx", ["g++", "clang++"])
def test_header_is_cxx17(cxx: str, tmp_path: Path) -> None:
    folder = write(doors(), tmp_path / "library")
    (tmp_path / "use.cpp").write_text(
        '#include "doors.h"\nint main() { return doors_run(nullptr, nullptr, nullptr, nullptr); }\n'
    )
    try:
        run(
            cxx,
            "-std=c++17",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Wconversion",
            "-Werror",
            "-fsyntax-only",
            "-I",
            folder,
            tmp_path / "use.cpp",
        )
    except FileNotFoundError:
        pytest.skip(f"{cxx} is not installed")


@pytest.mark.parametrize("cc", COMPILERS[:1])
def test_two_libraries_in_one_program_and_errors(cc: str, tmp_path: Path) -> None:
    one, two = write(classifier(), tmp_path / "one"), write(classifier("other", 5), tmp_path / "two")
    (tmp_path / "main.c").write_text(
        """
#include "net.h"
#include "other.h"
static _Alignas(64) uint8_t arena[NET_ARENA_BYTES + OTHER_ARENA_BYTES + 1];
static int8_t input[NET_INPUT_ELEMENTS];
static int16_t output[NET_OUTPUT_ELEMENTS];
int main(void) {
  const net_inputs in = {input};
  const net_outputs out = {output};
  const other_inputs other_in = {input};
  const other_outputs other_out = {output};
  net_exec exec = {0, 0, 0, 0, 77};
  if (net_run(0, &out, arena, 0) != NET_ERROR_NULL) return 1;
  if (net_run(&in, &out, arena + 1, 0) != NET_ERROR_MISALIGNED) return 2;
  if (net_run(&in, &out, arena, &exec) != NET_ERROR_PATH) return 3;
  if (net_run(&in, &out, arena, 0) != NET_OK) return 4;
  if (other_run(&other_in, &other_out, arena, 0) != OTHER_OK) return 5;
  if (net_best_path() != NET_PATH_REF) return 6;
  if (net_layers(NET_PATH_REF) < 5 || net_layer_name(NET_PATH_REF, 0)[0] == 0) return 7;
  if (net_layer_name(NET_PATH_REF, 1000)[0] != 0 || net_layer_name(NET_PATH_REF, -1)[0] != 0) return 8;
  return 0;
}
"""
    )
    run(
        cc,
        *STRICT,
        "-I",
        one,
        "-I",
        two,
        *sources(one),
        *sources(two),
        tmp_path / "main.c",
        "-o",
        tmp_path / "both",
    )
    run(tmp_path / "both")


@pytest.mark.parametrize("cc", COMPILERS[:1])
def test_parallel_for_gives_the_same_bits_in_any_order(cc: str, tmp_path: Path) -> None:
    graph = classifier()
    folder = write(graph, tmp_path / "library")
    values = random_inputs(graph)
    numbers = ", ".join(str(v) for v in values[graph.inputs[0]].ravel().tolist())
    (tmp_path / "main.c").write_text(
        f"""
#include <string.h>
#include "net.h"
static _Alignas(64) uint8_t arena[NET_ARENA_BYTES];
static const int8_t input[NET_INPUT_ELEMENTS] = {{{numbers}}};
static int32_t calls, depth, worst;
static void backwards(void *ctx, int32_t n, void (*fn)(void *, int32_t), void *arg) {{
  (void)ctx;
  for (int32_t i = n; i-- > 0;) {{ fn(arg, i); ++calls; }}
}}
static void on_layer(void *ctx, int32_t layer, int32_t begin) {{
  (void)layer;
  if (ctx != &calls) worst = 99;
  depth += begin ? 1 : -1;
  worst = depth > worst || depth < 0 ? 99 : worst;
}}
int main(void) {{
  int16_t one[NET_OUTPUT_ELEMENTS], many[NET_OUTPUT_ELEMENTS];
  const net_inputs in = {{input}};
  net_outputs out = {{one}};
  net_exec exec = {{backwards, 0, on_layer, &calls, NET_PATH_AUTO}};
  worst = 1;
  if (net_run(&in, &out, arena, 0) != 0) return 1;
  out.output = many;
  memset(arena, 0x5a, sizeof arena);
  if (net_run(&in, &out, arena, &exec) != 0) return 2;
  if (memcmp(one, many, sizeof one) != 0) return 3;
  if (calls < 10) return 4;
  return depth != 0 || worst != 1 ? 5 : 0;
}}
"""
    )
    run(cc, *STRICT, "-I", folder, *sources(folder), tmp_path / "main.c", "-o", tmp_path / "main")
    run(tmp_path / "main")


def test_manifest_tells_the_truth(tmp_path: Path) -> None:
    import hashlib

    graph = classifier()
    folder = write(graph, tmp_path / "library")
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert f"NET_ARENA_BYTES {manifest['arena_bytes']}\n" in (folder / "net.h").read_text()
    layers = manifest["programs"]["ref"]["layers"]
    assert sum(layer["macs"] for layer in layers) == manifest["macs"] > 0


def test_layers_say_what_they_read_and_write() -> None:
    graph = classifier()
    layers = build_library(graph, ["ref"]).manifest["programs"]["ref"]["layers"]
    assert layers[0]["input_shapes"] == {graph.inputs[0]: list(graph.tensor(graph.inputs[0]).shape)}
    assert layers[-1]["shapes"] == {graph.outputs[0]: list(graph.tensor(graph.outputs[0]).shape)}
    for layer in layers:
        assert not set(layer["input_shapes"]) & set(layer["shapes"])


def test_example_refuses_a_file_of_the_wrong_size(tmp_path: Path) -> None:
    folder = write(classifier(), tmp_path / "library")
    program = command_line("gcc", folder, tmp_path / "cli")
    (tmp_path / "in.bin").write_bytes(b"123")
    with pytest.raises(AssertionError, match="wrong number of bytes"):
        run(program, tmp_path / "in.bin", tmp_path / "out.bin")
    with pytest.raises(AssertionError, match="not a number of repeats: twice"):
        run(program, tmp_path / "in.bin", tmp_path / "out.bin", "twice")
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("cc", COMPILERS[:1])
def test_cmake_package_installs_and_is_found(cc: str, tmp_path: Path) -> None:
    import shutil

    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = write(classifier(), tmp_path / "library")
    run(
        "cmake",
        "-S",
        folder,
        "-B",
        tmp_path / "b",
        f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'prefix'}",
        f"-DCMAKE_C_COMPILER={cc}",
    )
    run("cmake", "--build", tmp_path / "b", "--target", "install")
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    (consumer / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(consumer C)\nfind_package(net REQUIRED)\n"
        "add_executable(consumer main.c)\ntarget_link_libraries(consumer PRIVATE net::net)\n"
    )
    (consumer / "main.c").write_text(
        "#include <net.h>\nint main(void) { return net_run(0, 0, 0, 0) == NET_ERROR_NULL ? 0 : 1; }\n"
    )
    run("cmake", "-S", consumer, "-B", tmp_path / "c", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", tmp_path / "c")
    run(tmp_path / "c" / "consumer")
    described = next((tmp_path / "prefix").glob("**/pkgconfig/net.pc"))
    if shutil.which("pkg-config"):
        flags = run("pkg-config", "--cflags", "--libs", described).split()
        run(cc, consumer / "main.c", *flags, "-o", tmp_path / "by_pkg_config")
        run(tmp_path / "by_pkg_config")


@pytest.mark.parametrize("cc", COMPILERS)
def test_any_names_of_the_model_make_good_c(cc: str, tmp_path: Path) -> None:
    graph = doors()
    ends = ("class", "arena", "Score", "score")
    odd = dict(zip((*graph.inputs, *graph.outputs), ends, strict=False))
    odd |= {n: f"{n} a*/b/*c\n\\" for n in graph.tensors if n not in odd}

    def rename(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(odd[n] for n in names)

    graph = graph.replace(
        # Long, too: C promises 4095 bytes of one literal.
        nodes=tuple(
            dataclasses.replace(
                n,
                name=f'{n.name} */ "x" ??/ é\n' + 500 * "y",
                inputs=rename(n.inputs),
                outputs=rename(n.outputs),
            )
            for n in graph.nodes
        ),
        tensors={odd[n]: dataclasses.replace(t, name=odd[n]) for n, t in graph.tensors.items()},
        inputs=rename(graph.inputs),
        outputs=rename(graph.outputs),
    )
    library = build_library(graph, ["ref"], notes=["about a*/b and c/*d"])
    folder = tmp_path / "library"
    write_folder(folder, library.files)
    program = command_line(cc, folder, tmp_path / "cli")
    got, want = run_cli(program, graph, tmp_path)
    assert got == want
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "doors.h"\nint main(void) {\n'
        "  for (int32_t i = 0; i < doors_layers(0 + DOORS_PATH_REF); ++i)"
        " puts(doors_layer_name(DOORS_PATH_REF, i));\n  return 0;\n}\n"
    )
    run(cc, *STRICT, "-I", folder, *sources(folder), tmp_path / "main.c", "-o", tmp_path / "names")
    lines = run(tmp_path / "names").splitlines()
    layers = library.manifest["programs"]["ref"]["layers"]  # type: ignore[index]
    assert [line.split(": ")[1] for line in lines] == [layer["title"] for layer in layers]
    assert lines[0].startswith(graph.nodes[0].name.split(" ")[0] + " *_ _x_ __/ é_yyy")


def test_reference_is_kept_beside(tmp_path: Path) -> None:
    from mnv3c.ir import serialize

    graph = classifier()
    folder = write(graph, tmp_path / "library")
    again = serialize.load(folder / "reference" / "integer.npz")
    values = random_inputs(graph)
    for name, value in integer.run(graph, values).items():
        np.testing.assert_array_equal(integer.run(again, values)[name], value)
