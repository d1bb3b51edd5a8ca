"""Being told to end: ``kill``, a terminal that closes, a service manager that stops the service."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# What may be sent, where the system has it. Programs that a script starts in the background do not hear
# Ctrl-C: a shell makes them ignore SIGINT.
_NAMES = ("SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end. Whatever keeps its work at Ctrl-C keeps it then too.

    Attributes:
        code: to exit with, as shells report it: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise ``Terminated`` in the main thread; ignored ones stay so (``nohup``).

    Processes forked inside without ``exec`` end at once as they would have done: they may be in C code, where
    a Python handler would never run. In another thread than the main one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    mine = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]
    _at_fork()
    for number in mine:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    """Back to what the system does, where it is ours that was done."""
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)


@functools.cache
def _at_fork() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
