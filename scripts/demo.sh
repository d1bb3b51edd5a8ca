#!/usr/bin/env bash
# Sets everything up, compiles a trained network and runs it on an image, on an emulated Arm CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec "${MNV3C_VENV:-.venv}/bin/python" examples/text_direction.py "$@"
