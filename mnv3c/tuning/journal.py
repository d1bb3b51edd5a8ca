"""What a search has measured, line by line in a file: a search that was stopped goes on from it.

A measurement is found again by its device, its compiler and the digest of its code. So a journal stays true
when kernels change, and a search that is run again with the same seed takes the same steps at no cost.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO

from mnv3c.errors import Mnv3cError


class Journal:
    """Costs by candidate key.

    Args:
        file: where to keep them; ``None`` for memory alone.

    Raises:
        Mnv3cError: the file cannot be read or written.
    """

    def __init__(self, file: Path | None, device: str, compiler: str) -> None:
        self._who = {"device": device, "compiler": compiler}
        self._costs: dict[str, float] = {}
        self._file: IO[str] | None = None
        if file is None:
            return
        try:
            before = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
            self._read(before)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a", encoding="utf-8")
            if before and not before.endswith("\n"):
                self._file.write("\n")
        except OSError as error:
            raise Mnv3cError(f"cannot write: {error.strerror}", str(file)) from None

    def get(self, key: str) -> float | None:
        """The cost of a candidate measured before; infinite where it failed."""
        return self._costs.get(key)

    def add(self, key: str, cost: float) -> None:
        """Keep a cost, on the disk too before this returns."""
        self._costs[key] = cost
        if self._file is not None:
            entry = {**self._who, "key": key, "cost": cost if math.isfinite(cost) else None}
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, text: str) -> None:
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                if {k: entry[k] for k in self._who} == self._who:
                    cost = entry["cost"]
                    self._costs[str(entry["key"])] = math.inf if cost is None else float(cost)
            except (ValueError, KeyError, TypeError):
                continue  # a line that was being written when the search ended
