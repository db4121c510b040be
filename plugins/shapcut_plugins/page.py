"""What all HTML pages share: templates in which everything is escaped, and their style."""

from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined


def environment() -> Environment:
    """The templates of this package."""
    templates = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_template),
    )
    templates.filters["figure"] = figure
    return templates


def figure(number: float | None, form: str = "{:.4g}") -> str:
    """A number in words: a dash where there is none."""
    return "–" if number is None else form.format(number)  # noqa: RUF001 - a dash in a table


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
