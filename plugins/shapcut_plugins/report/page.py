"""What all HTML pages share: templates in which everything is escaped, their style and their one script."""

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def environment() -> Environment:
    """The templates of this package; ``policy`` lets the page run ``script`` and load nothing at all."""
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
    """A content security policy for a page whose only script is this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def figure(number: float | None, form: str = "{:.4g}") -> str:
    """A number in words: a dash where there is none."""
    return "–" if number is None else form.format(number)  # noqa: RUF001 - a dash in a table


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
