"""Damaged TFLite files: none may crash, hang, take much memory or give a traceback.

The files are loaded in processes of their own with a limit on memory and time, so that a crash or a
hang fails the test and names the file's seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert.schema_py_generated")

from tests.tflite_detectors import detector
from tests.tflite_files import small_network

PROCESSES = 2
EACH = 300
SECONDS = 1800  # for one that hangs without computing
NUMBERS = (0, 1, 2, 4, 127, 128, 255, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

WORKER = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    from mnv3c.errors import Mnv3cError
    from mnv3c.frontend import quantized
    loaded = 0
    for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
        print("file", path.name, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 10)  # of computing, however busy the machine is
        try:
            quantized.is_quantized(path)
            quantized.load(path)
            loaded += 1
        except Mnv3cError as error:
            assert "\\n" not in str(error) and path.name in str(error) and len(str(error)) < 1000, str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
    print("loaded", loaded)
    """
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, overwrite bytes or 32-bit words, copy a block over another, or cut the end."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(damaged))
        kind = rng.choices(("bit", "byte", "word", "block", "cut"), (6, 4, 6, 3, 0.3))[0]
        if kind == "bit":
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            damaged[at] = rng.choice(NUMBERS) & 255
        elif kind == "word":
            at &= ~3
            damaged[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
        elif kind == "block":
            other, size = rng.randrange(len(damaged)), rng.randrange(1, 64)
            damaged[at : at + size] = damaged[other : other + size]
        else:
            del damaged[rng.randrange(len(damaged) // 2, len(damaged)) :]
    return bytes(damaged)


def write_files(folder: Path, first_seed: int) -> None:
    seeds = [small_network("int8").bytes(), small_network("uint8").bytes(), detector("uint8").bytes()]
    for seed in range(first_seed, first_seed + EACH):
        rng = random.Random(seed)
        (folder / f"{seed:05d}.tflite").write_bytes(mutate(rng.choice(seeds), rng))


@pytest.mark.slow
def test_damaged_files_give_one_clear_line(tmp_path):
    workers = []
    for i in range(PROCESSES):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_files(folder, i * EACH)
        command = [sys.executable, "-c", WORKER, str(folder)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    loaded = 0
    for worker in workers:
        try:
            out, errors = worker.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            out, errors = worker.communicate()
        lines = out.splitlines()
        assert worker.returncode == 0, f"{lines[-1:]}: {errors[-2000:]}"
        loaded += int(lines[-1].split()[1])
    # Some damage falls on weights and stays unseen; most of it must not.
    assert 0 < loaded < 0.8 * PROCESSES * EACH
