"""The Python interface as users see it."""

from __future__ import annotations

import inspect


def test_every_public_name_is_what_it_says_after_any_import() -> None:
    """A subpackage of the same name would hide a function once it is imported."""
    import mnv3c.verification

    for name in mnv3c.__all__:
        value = getattr(mnv3c, name)
        assert not inspect.ismodule(value), name
        assert value.__doc__ or isinstance(value, str), name
    assert callable(mnv3c.verify) and callable(mnv3c.verify)
