"""Shared parts of all HTML pages: escaping templates, style and script."""

import base64
import functools
import hashlib
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


@functools.cache
def environment() -> Environment:
    """The templates of this package; ``policy`` allows ``script`` and no loading."""
    templates = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_template),
    )
    templates.filters["figure"] = figure
    script = _template("page.js")
    templates.globals["script"] = Markup(script)  # noqa: S704 - a file of this package
    templates.globals["policy"] = content_policy(script)
    return templates


def content_policy(script: str) -> str:
    """A content security policy that allows only this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def figure(number: float | None, form: str = "{:.4g}") -> str:
    """A formatted number, or a dash."""
    return "–" if number is None else form.format(number)  # noqa: RUF001 - a dash in a table


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
