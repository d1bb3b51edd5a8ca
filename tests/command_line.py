"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mnv3c.cli import main

Run = Callable[..., tuple[int, str, str]]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """``mnv3c`` with these arguments: exit code, standard output, standard error."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
