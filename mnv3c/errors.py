"""The one exception that means "the user's input is at fault"."""

from __future__ import annotations


class Mnv3cError(Exception):
    """A clear, single-line message about bad use or bad input.

    The command line prints it as ``mnv3c: error: <place>: <message>`` and exits with 2; it never
    shows a traceback. ``place`` names the file, node, tensor or option at fault.
    """

    def __init__(self, message: str, place: str = "") -> None:
        self.message = " ".join(message.split())
        self.place = " ".join(place.split())
        super().__init__(f"{self.place}: {self.message}" if self.place else self.message)


class CheckFailed(Exception):
    """A check that ran and did not hold (a mismatch in ``verify``, say): exit code 1."""
