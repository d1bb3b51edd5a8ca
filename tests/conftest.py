"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.command_line import Run, call

# No example is late and no run differs from the last: neither says anything about the code.
_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors)
settings.register_profile("mnv3c", deadline=None, derandomize=True, suppress_health_check=_CHECKS)
settings.load_profile("mnv3c")

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden C files instead of comparing"
    )


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line: ``run("compile", ...)`` gives exit code, standard output and standard error."""
    return lambda *arguments: call(capsys, *arguments)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of trained models and labelled images; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("MNV3C_DATA", _BESIDE))
    if not (folder / "models").is_dir():
        pytest.skip("no trained models: set MNV3C_DATA to the folder that holds models/ and images/")
    return folder
