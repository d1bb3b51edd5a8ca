"""What tuning found, in files: versioned, checked when read, merged when written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv3c import __version__, resources, targets
from mnv3c.codegen.program import Schedule
from mnv3c.errors import Mnv3cError
from mnv3c.schedules import Op
from mnv3c.targets import Target
from mnv3c.tuning import space

FORMAT = 1
FAMILIES = ("clang", "gcc")
_FIELDS = {
    "operator": str,
    "path": str,
    "shape": dict,
    "compiler": str,
    "schedule": dict,
    "cost": float,
    "default_cost": float,
    "unit": str,
    "device": str,
}


@dataclass(frozen=True)
class Record:
    """The best schedule found for an operator.

    Attributes:
        compiler: family and major version, such as ``clang 19``.
        schedule: empty where nothing was better than the default.
        cost, default_cost: in ``unit``, of this schedule and of the default.
        unit: ``cycles`` or ``s``.
        device: the kind of what measured it; not where it is.
    """

    op: Op
    compiler: str
    schedule: Schedule
    cost: float
    default_cost: float
    unit: str
    device: str

    @property
    def family(self) -> str:
        return self.compiler.split()[0]


@dataclass(frozen=True)
class Records:
    """Records for one core.

    Attributes:
        found: (operator, compiler family) to record.
    """

    core: str
    found: Mapping[tuple[Op, str], Record] = field(default_factory=dict)

    def get(self, op: Op, family: str) -> Record | None:
        return self.found.get((op, family))

    def merged(self, records: Iterable[Record]) -> Records:
        """With more records; of two for one operator and compiler the newer measurement stays.

        Unless both measured the same default alike and the older one found more: a search that was stopped
        early takes nothing back.
        """
        found = dict(self.found)
        for new in records:
            old = found.get((new.op, new.family))
            found[new.op, new.family] = old if old is not None and _found_more(old, new) else new
        return Records(self.core, found)


def _found_more(old: Record, new: Record) -> bool:
    same = (old.compiler, old.device, old.unit) == (new.compiler, new.device, new.unit)
    return (
        same and abs(old.default_cost - new.default_cost) <= 1e-3 * new.default_cost and old.cost < new.cost
    )


def family_of(compiler: str) -> str:
    """``clang`` or ``gcc`` for a kind of compiler; zig's is a clang."""
    return "gcc" if compiler.startswith("gcc") else "clang"


def shipped(core: Target) -> Path:
    """Where the records that come with the compiler are, if it has some for that core."""
    return resources.directory("schedules") / "records" / f"{core.name}.json"


def core_of(file: Path) -> Target:
    """The core that a file's records are for.

    Raises:
        Mnv3cError: unreadable, or it does not say.
    """
    try:
        return targets.get(str(json.loads(file.read_text(encoding="utf-8"))["core"]), str(file))
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror}", str(file)) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Mnv3cError("damaged records: they do not say for which core they are", str(file)) from None


def load(file: Path, core: Target, family: str | None = None) -> Records:
    """Read and check a file.

    Args:
        family: refuse the file if it has records, but none for this compiler.

    Raises:
        Mnv3cError: unreadable, damaged, of another version, for another core or compiler, or with an
            illegal schedule; one line.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Mnv3cError(f"cannot read: {error.strerror}", str(file)) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise Mnv3cError("damaged records: not JSON", str(file)) from None
    if not isinstance(content, dict) or not isinstance(content.get("records"), list):
        raise Mnv3cError("damaged records: no list of records", str(file))
    if content.get("format") != FORMAT:
        raise Mnv3cError(
            f"records of format {content.get('format')!r}; this version reads {FORMAT}: run mnv3c tune again",
            str(file),
        )
    if content.get("core") != core.name:
        raise Mnv3cError(f"records for {content.get('core')!r}, not for {core.name}", str(file))
    read = [_record(entry, i, core, file) for i, entry in enumerate(content["records"])]
    if family is not None and read and all(r.family != family for r in read):
        others = ", ".join(sorted({r.compiler for r in read}))
        raise Mnv3cError(f"records for the compiler {others}, none for {family}", str(file))
    return Records(core.name).merged(read)


def _record(entry: Any, index: int, core: Target, file: Path) -> Record:
    place = f"{file}, record {index}"
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise Mnv3cError(f"damaged records: a record has the fields {', '.join(_FIELDS)}", place)
    for name, kind in _FIELDS.items():
        value = entry[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if not isinstance(value, kind):
            raise Mnv3cError(f"damaged records: {name} cannot be {value!r}", place)
    if not 0 < entry["cost"] < float("inf") or not 0 < entry["default_cost"] < float("inf"):
        raise Mnv3cError("damaged records: a cost is not a positive number", place)
    if not entry["compiler"].startswith(tuple(f"{f} " for f in FAMILIES)):
        raise Mnv3cError(f"damaged records: unknown compiler {entry['compiler']!r}", place)
    for name, value in (*entry["shape"].items(), *entry["schedule"].items()):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise Mnv3cError(f"damaged records: {name} cannot be {value!r}", place)
    op = Op(entry["operator"], entry["path"], tuple(entry["shape"].items()))
    try:
        space.check(entry["schedule"], op, core, place)
    except (KeyError, ValueError, ArithmeticError) as error:
        raise Mnv3cError(
            f"damaged records: the shape of {op.operator} is not complete ({error})", place
        ) from None
    return Record(
        op,
        entry["compiler"],
        entry["schedule"],
        float(entry["cost"]),
        float(entry["default_cost"]),
        entry["unit"],
        entry["device"],
    )


def dumps(records: Records) -> str:
    """The text of a file: one record a line, in a fixed order."""
    ordered = sorted(records.found.values(), key=lambda r: (r.op.key, r.compiler))
    lines = [
        json.dumps(
            {
                "operator": r.op.operator,
                "path": r.op.path,
                "shape": dict(r.op.shape),
                "compiler": r.compiler,
                "schedule": dict(r.schedule),
                "cost": round(r.cost, 9),
                "default_cost": round(r.default_cost, 9),
                "unit": r.unit,
                "device": r.device,
            }
        )
        for r in ordered
    ]
    facts = {"format": FORMAT, "mnv3c": __version__, "core": records.core}
    head = "".join(f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in facts.items())
    body = ",\n".join(f"  {line}" for line in lines)
    return f'{{\n{head} "records": [\n{body}\n ]\n}}\n'


def save(file: Path, records: Records) -> None:
    """Write a file as a whole: a reader sees the old one or the new one.

    Raises:
        Mnv3cError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(dumps(records), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror}", str(file)) from None
