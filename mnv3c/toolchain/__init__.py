"""C compilers: finding one for a target, and building a generated library with it."""

from mnv3c.toolchain.build import build_executable, build_freestanding, build_shared
from mnv3c.toolchain.compiler import Compiler, candidates, find

__all__ = ["Compiler", "build_executable", "build_freestanding", "build_shared", "candidates", "find"]
