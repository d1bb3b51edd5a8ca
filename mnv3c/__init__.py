"""mnv3c: MobileNetV3 networks to small, fast, stand-alone int8 C libraries for Arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CompiledLibrary", "Mnv3cError", "__version__", "compile", "load", "quantize", "verify"]

if TYPE_CHECKING:
    from mnv3c.api import CompiledLibrary, compile, load, quantize
    from mnv3c.errors import Mnv3cError
    from mnv3c.verification import verify

_HOMES = {
    "CompiledLibrary": "mnv3c.api",
    "Mnv3cError": "mnv3c.errors",
    "compile": "mnv3c.api",
    "load": "mnv3c.api",
    "quantize": "mnv3c.api",
    "verify": "mnv3c.verification",
}


def __getattr__(name: str) -> Any:
    """Import on use: ``import mnv3c`` alone costs milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mnv3c' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
