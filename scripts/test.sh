#!/usr/bin/env bash
# Sets everything up, then lints, checks types and runs all tests, fast and slow.
#
#   scripts/test.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test
bin=${MNV3C_VENV:-.venv}/bin
# Two workers use two cores; without this each would start threads for both.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest -n "${MNV3C_JOBS:-2}" "$@"
