"""The report as one self-contained page: inline SVG and CSS, nothing fetched."""

from __future__ import annotations

from pathlib import Path

from mnv3c.bench.report import Report
from mnv3c.errors import Mnv3cError


def write(file: Path, report: Report) -> None:
    """Write the page.

    Raises:
        Mnv3cError: ``file`` cannot be written.
    """
    try:
        file.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise Mnv3cError(f"cannot write the page: {error.strerror or error}", str(file)) from None


def page(report: Report) -> str:
    """The page's HTML."""
    return f"<!doctype html><title>{report.library}</title>"
