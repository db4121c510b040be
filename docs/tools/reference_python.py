"""The reference of the Python interface, made from signatures and docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import shapcut

INTRODUCTION = """\
# Python

This page is generated from signatures and docstrings by `python docs/tools/reference.py`. Names that are not
on it may change without notice. The [quickstart](quickstart.md#from-python) shows the functions at work.
"""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Functions and the game": tuple(
        f"shapcut.{name}" for name in shapcut.__all__ if not name.startswith("_")
    ),
    "What they take and give": (
        "shapcut.game.coalitions.Player",
        "shapcut.game.contributions.Fidelity",
        "shapcut.game.contributions.Robustness",
        "shapcut.comparison.compare.compare",
    ),
    "What plugins subclass": (
        "shapcut.models.adapter.Adapter",
        "shapcut.models.layer_stack.LayerStack",
        "shapcut.game.game.Game",
        "shapcut.valuation.utilities.TokenUtility",
        "shapcut.estimators.sampling.Sampler",
        "shapcut.estimators.base.Estimator",
        "shapcut.estimators.base.EstimationProblem",
        "shapcut.selection.base.Selector",
        "shapcut.selection.base.SelectionProblem",
        "shapcut.steps.step.PostProcessor",
        "shapcut.steps.step.StepContext",
        "shapcut.models.checkpoint_format.CheckpointFormat",
        "shapcut.valuation.executor.Executor",
    ),
    "Testing an adapter": ("shapcut.testing.check_adapter", "shapcut.testing.assert_adapter"),
    "Errors": (
        "shapcut.support.errors.ShapcutError",
        "shapcut.support.errors.InputError",
        "shapcut.support.errors.UnsupportedModelError",
        "shapcut.support.errors.StoreMismatchError",
        "shapcut.support.errors.BudgetExceededError",
        "shapcut.support.errors.VerificationError",
    ),
}

_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")
_WIDTH = 100


def python_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for heading, names in SECTIONS.items():
        parts += [f"## {heading}", *(_described(name) for name in names)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _described(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    thing = getattr(import_module(module), attribute)
    parts = [f"### {name}"]
    if inspect.isclass(thing):
        tree = _parsed(thing)
        parts += [_fenced(_class_header(thing, tree)), _documentation(thing)]
        parts += [_member(thing, node) for node in _public_members(tree)]
    else:
        parts += [_fenced(_signature(_parsed(thing))), _documentation(thing)]
    return "\n\n".join(filter(None, parts))


def _parsed(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _public_members(tree: ast.ClassDef) -> Iterator[Any]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


def _class_header(thing: type, tree: ast.ClassDef) -> str:
    """How to make one, or the fields of plain data."""
    made = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if made:
        return _signature(made[0], name=tree.name, skip_first=True, returns=False)
    fields = [n for n in tree.body if isinstance(n, ast.AnnAssign) and not _is_hidden(n)]
    bases = ", ".join(ast.unparse(base) for base in tree.bases)
    head = f"class {thing.__name__}({bases})" if bases else f"class {thing.__name__}"
    return "\n".join([f"{head}:" if fields else head, *(f"    {_field(field, thing)}" for field in fields)])


def _field(node: ast.AnnAssign, owner: type) -> str:
    """A field as its class writes it; a default that is looked up elsewhere as its value."""
    known = getattr(owner, "model_fields", {}).get(ast.unparse(node.target))
    if isinstance(node.value, ast.Attribute) and known is not None:
        return f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)} = {known.default!r}"
    return ast.unparse(node)


def _is_hidden(field: ast.AnnAssign) -> bool:
    return not isinstance(field.target, ast.Name) or field.target.id.startswith("_")


def _member(owner: type, node: ast.FunctionDef) -> str:
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        header = f"{owner.__name__}.{node.name} -> {ast.unparse(node.returns) if node.returns else 'None'}"
    else:
        header = _signature(
            node, name=f"{owner.__name__}.{node.name}", skip_first="staticmethod" not in decorators
        )
    return _fenced(header) + "\n\n" + _formatted(ast.get_docstring(node) or "")


def _signature(
    node: ast.FunctionDef, *, name: str = "", skip_first: bool = False, returns: bool = True
) -> str:
    arguments = node.args
    if skip_first:
        arguments.args = arguments.args[1:]
    end = f") -> {ast.unparse(node.returns)}" if returns and node.returns else ")"
    inside = ast.unparse(arguments)
    line = f"{name or node.name}({inside}{end}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name or node.name}(", *(f"    {part}," for part in _parameters(arguments)), end])


def _parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter with its annotation and default; a lone ``*`` before those that need their names."""
    positional = [*arguments.posonlyargs, *arguments.args]
    blank = len(positional) - len(arguments.defaults)
    parts = [
        _parameter(argument, arguments.defaults[index - blank] if index >= blank else None)
        for index, argument in enumerate(positional)
    ]
    if arguments.vararg:
        parts.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parts += [_parameter(argument, default) for argument, default in pairs]
    return parts + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def _documentation(thing: Any) -> str:
    return _formatted(inspect.getdoc(thing) or "")


def _formatted(docstring: str) -> str:
    """A docstring in Google's form as Markdown: its sections become lists."""
    lines: list[str] = []
    listed = False
    for line in docstring.splitlines():
        if section := _SECTION.match(line):
            listed = True
            lines += [f"*{section[1]}*", ""]
        elif not line.strip():
            listed = False
            lines.append("")
        elif listed:
            lines.append(_item(line))
        else:
            lines.append(line)
    return "\n".join(lines)


def _item(line: str) -> str:
    entry = re.match(r"^ {4}(\w+): (.*)$", line)
    if entry:
        return f"- `{entry[1]}`: {entry[2]}"
    return f"- {line.strip()}" if re.match(r"^ {4}\S", line) else f"  {line.strip()}"


def _fenced(code: str) -> str:
    code = code.replace("'", '"')  # as the formatter has it
    return f"```py\n{code}\n```"
