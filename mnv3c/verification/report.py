"""What ``mnv3c verify`` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PathReport:
    """One path of a library.

    Attributes:
        runner, where: what ran it, on which CPU; empty if it was not run.
        compiler: that built it.
        runs: inferences of random or given inputs compared.
        frames: of the library's camera, whose images were compared.
        equal: whether every bit of every output was the reference's.
        problem: what was wrong: a fault, or the first difference.
        skipped: why it could not be run here.
        stack_bytes: the most stack a run took; ``None`` where that is not measured.
        seconds: of building and running.
    """

    path: str
    runner: str = ""
    where: str = ""
    compiler: str = ""
    runs: int = 0
    frames: int = 0
    equal: bool = False
    problem: str = ""
    skipped: str = ""
    stack_bytes: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class FloatError:
    """The integer network's outputs against the float network's, over ``inputs`` inputs.

    Attributes:
        source: ``images`` or ``random``: what the inputs were.
        cosine: of the angle between the two output vectors, the mean.
        sqnr_db: signal to quantisation noise, ``10 log10(sum y^2 / sum (y - q)^2)`` over all inputs.
        top1_agreement: share of inputs (or, for maps, of positions) whose largest channel is the same.
    """

    output: str
    source: str
    inputs: int
    cosine: float
    sqnr_db: float
    top1_agreement: float


@dataclass(frozen=True)
class Report:
    """The result of ``verify``.

    Attributes:
        changed_files: files of the library that are not as its manifest says.
    """

    name: str
    directory: str
    changed_files: tuple[str, ...]
    paths: tuple[PathReport, ...]
    errors: tuple[FloatError, ...]

    @property
    def ok(self) -> bool:
        """Nothing was changed, something ran, and all that ran was equal."""
        ran = [p for p in self.paths if not p.skipped]
        return not self.changed_files and bool(ran) and all(p.equal for p in ran)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"ok": self.ok, **asdict(self)}
