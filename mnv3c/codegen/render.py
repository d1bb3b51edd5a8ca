"""The jinja2 environment for everything under ``templates/``."""

from __future__ import annotations

import functools
import re

import jinja2

from mnv3c.resources import directory


@functools.lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """One environment a process; an undefined name in a template is an error, never an empty string."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it writes C, not HTML
    )


def render(template: str, /, **values: object) -> str:
    """Render ``templates/<template>``."""
    return environment().get_template(template).render(**values)


def identifier(text: str) -> str:
    """``text`` as a C identifier: other characters become ``_``, a leading digit gets an ``n`` before it."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "_"
    return f"n{name}" if name[0].isdigit() else name
