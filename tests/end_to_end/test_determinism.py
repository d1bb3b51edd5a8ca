"""The same bytes whatever the machine: other CPU kernels in NumPy and its BLAS, other thread counts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib, mnv3c, numpy as np
images = list(np.random.default_rng(0).normal(0, 1, (6, 64, 64, 3)).astype(np.float32))
for calibration in (None, images):
    options = {"width": 0.35, "resolution": 64, "classes": 10, "calibration": calibration}
    library = mnv3c.compile("mobilenet_v3_small", "arm64", **options)
    for name, content in sorted(library.files.items()):
        data = content if isinstance(content, bytes) else content.encode()
        print(name, hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the settings are those of x86-64")
def test_bytes_do_not_depend_on_the_cpu() -> None:
    plain = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    plain["NPY_DISABLE_CPU_FEATURES"] = (
        "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    )
    rich = {"OPENBLAS_CORETYPE": "SkylakeX", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "2"}
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        rich["OPENBLAS_CORETYPE"] = "Nehalem"
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            env={**os.environ, **setting},
            capture_output=True,
            text=True,
            check=True,
            timeout=3600,
        ).stdout
        for setting in (plain, rich)
    ]
    assert said[0].count("\n") > 20
    assert said[0] == said[1]
