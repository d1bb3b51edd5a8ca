"""Builds a generated library, runs it, and compares every bit with the NumPy reference."""

from mnv3c.verify.check import verify
from mnv3c.verify.report import FloatError, PathReport, Report

__all__ = ["FloatError", "PathReport", "Report", "verify"]
