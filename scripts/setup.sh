#!/usr/bin/env bash
# Makes .venv in the checkout with mnv3c in it. Run again, it only does what is missing.
#
#   scripts/setup.sh          to compile and run networks
#   scripts/setup.sh test     to lint and test as well
#
# From the package index and, as root on a Debian-like system, from apt. Without root, what needs those
# system packages is skipped by the tests, which say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
purpose=${1:-run}
venv=${MNV3C_VENV:-.venv}
# Trained MobileNetV3-Small x0.35 (PP-OCR's text direction); its own dependencies are not needed.
trained="rapidocr-onnxruntime==1.2.3"

say() { printf '%s\n' "setup: $*"; }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

updated=
apt_install() { # PACKAGE...: whichever of them there are
  [ -n "$updated" ] || apt-get -qq update >/dev/null || say "apt-get update failed; going on"
  updated=yes
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1
}

need() { # COMMAND PACKAGE PURPOSE
  command -v "$1" >/dev/null && return
  if can_apt && apt_install "$2"; then
    say "installed $2"
  else
    say "$1 is missing and could not be installed ($2): no $3"
  fi
}

find_python() {
  local candidate
  for candidate in ${MNV3C_PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed" >&2
  exit 2
}

make_venv() {
  local python
  python=$(find_python)
  "$python" -m venv "$venv" >/dev/null 2>&1 && return
  # Debian keeps ensurepip in a package of its own.
  rm -rf "$venv"
  if can_apt && apt_install python3-venv && "$python" -m venv "$venv"; then
    return
  fi
  rm -rf "$venv"
  say "no venv module; trying virtualenv from the package index"
  "$python" -m pip install --quiet --target "$venv.tool" virtualenv
  PYTHONPATH="$venv.tool" "$python" -m virtualenv --quiet "$venv"
}

[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv

wanted="." extras=
if [ "$purpose" = test ]; then
  extras="[test]"
  need gcc gcc "sanitizer builds and host library"
  need g++ g++ "C++ check of the header"
  need clang clang "second compiler"
  need cmake cmake "CMake consumer"
  need make make "CMake consumer"
  need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu "gcc builds for Arm (zig is used)"
  need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf "gcc builds for 32-bit Arm (zig is used)"
  need qemu-aarch64 qemu-user "i8mm on emulated Arm"
  if ! compgen -c llvm-mca | grep -qE '^llvm-mca(-(1[5-9]|[2-9][0-9]))?$'; then
    need llvm-mca-19 llvm-19 "estimated cycles"
  fi
fi
stamp="$venv/.mnv3c-$purpose"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  say "installing mnv3c$extras into $venv (TVM and zig are large: some minutes)"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-warn-conflicts --editable "$wanted$extras"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-warn-conflicts --no-deps "$trained"
  touch "$stamp"
fi
say "ready: $venv/bin/mnv3c"
