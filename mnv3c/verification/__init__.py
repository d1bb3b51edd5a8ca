"""Builds a generated library, runs it, and compares every bit with the NumPy reference."""

from mnv3c.verification.check import verify
from mnv3c.verification.report import FloatError, PathReport, Report

__all__ = ["FloatError", "PathReport", "Report", "verify"]
