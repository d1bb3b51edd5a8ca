"""Damaged ONNX files are refused with one line or compiled; none crashes, hangs or eats the memory."""

from __future__ import annotations

import collections
import json
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from mnv3c.errors import Mnv3cError
from tests.fuzz.mutate import mutant, seed_model

FILES = 600
WORKERS = 2
SECONDS_EACH = 20  # of computing
MEMORY_BYTES = 6 * 2**30  # address space; TVM maps about 2 GiB of it


def try_file(path: Path) -> str:
    """``compiled``, or ``refused``, or a description of what must not happen."""
    import mnv3c

    signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
    try:
        library = mnv3c.compile(path, "arm64")
        return "compiled" if library.manifest["macs"] else "a library that does nothing"
    except Mnv3cError as error:
        message = str(error)
        return (
            "refused" if "\n" not in message and len(message) < 2000 else f"a long message: {message[:300]}"
        )
    except BaseException:
        return "".join(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def work(folder: Path, first: int, step: int) -> None:
    """Compile every ``step``-th mutant, a line of JSON for each; killed by SIGPROF where one hangs."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for index in range(first, FILES, step):
        path = folder / f"{index}.onnx"
        path.write_bytes(mutant(index))
        print(json.dumps({"index": index, "started": True}), flush=True)
        print(json.dumps({"index": index, "result": try_file(path)}), flush=True)
        path.unlink()


@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.test_fuzz_onnx", str(tmp_path), str(w), str(WORKERS)],
            stdout=(tmp_path / f"{w}.out").open("w"),
            stderr=(tmp_path / f"{w}.err").open("w"),
            cwd=Path(__file__).parents[2],
        )
        for w in range(WORKERS)
    ]
    codes = [p.wait(timeout=3600) for p in processes]
    results: dict[int, str] = {}
    for w, code in enumerate(codes):
        lines = [json.loads(line) for line in (tmp_path / f"{w}.out").read_text().splitlines()]
        results |= {entry["index"]: entry["result"] for entry in lines if "result" in entry}
        last = lines[-1] if lines else {}
        assert code == 0, f"worker ended with {code} at {last}: {(tmp_path / f'{w}.err').read_text()[-2000:]}"
        assert "Traceback" not in (tmp_path / f"{w}.err").read_text()
    assert sorted(results) == list(range(FILES))
    bad = {i: r for i, r in results.items() if r not in ("compiled", "refused")}
    assert not bad, f"{len(bad)} of {FILES} files, first: {next(iter(bad.items()))}"
    counts = collections.Counter(results.values())
    # Mutants that are all refused by the parser would test nothing behind it.
    assert counts["compiled"] > FILES // 20 and counts["refused"] > FILES // 3, counts


def test_seed_model_compiles_and_a_few_mutants_behave(tmp_path: Path) -> None:
    path = tmp_path / "seed.onnx"
    path.write_bytes(seed_model().SerializeToString())
    assert try_file(path) == "compiled"
    for index in range(20):
        path.write_bytes(mutant(index, seed=1))
        assert try_file(path) in ("compiled", "refused"), index


def test_mutants_come_from_the_seed() -> None:
    assert [mutant(i) for i in range(10)] == [mutant(i) for i in range(10)]
    assert len({mutant(i) for i in range(100)}) > 95


if __name__ == "__main__":
    start = time.monotonic()
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)
