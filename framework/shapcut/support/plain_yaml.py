"""Load YAML without anchors, aliases, tags and duplicate keys."""

import re
from typing import Any

import yaml

from shapcut.support.quiet import one_line

_TAG = "tag:yaml.org,2002:"
_RESOLVED = {"bool", "int", "float", "timestamp", "merge"}
"""Types that YAML 1.1 infers from plain scalars such as ``on``, ``1:30``, ``017``, ``2024-01-01``, ``<<``."""


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML without anchors, aliases, tags and duplicate keys; reads plain scalars as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in _RESOLVED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse tags, and anchors and aliases, which can expand a small file into a huge one."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = f"the anchor or alias {event.anchor!r} is not taken here: write the value itself"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            problem = f"the tag {event.tag!r} is not taken here: write the value without it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse duplicate keys."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_NUMBER = (
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_PlainLoader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_PlainLoader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_PlainLoader.add_implicit_resolver(f"{_TAG}float", re.compile(rf"({_NUMBER})$"), list("-+.0123456789"))


def load_plain_yaml(text: str) -> Any:
    """The content of a YAML document.

    Raises:
        ValueError: with the problem and its place, in one line.
    """
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from error
    except (RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        # nested too deeply, or an error of PyYAML on a malformed number
        raise ValueError(one_line(error)) from error


def _reason(error: yaml.YAMLError) -> str:
    """The problem and its place, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())
