"""Reading a recipe's file: YAML that can mean only one thing."""

import re
from pathlib import Path
from typing import Any

import yaml

from shapcut.support.errors import InputError
from shapcut.support.quiet import one_line

_LARGEST = 1 << 20
_BOOL = "tag:yaml.org,2002:bool"


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors and aliases, in which no key comes twice; ``on`` is a word, as in YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse anchors and aliases, with which a small file can stand for a huge one."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = f"the anchor or alias {event.anchor!r} is not taken here: write the value itself"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, if its keys differ."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_PlainLoader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def read_recipe_file(file: Path) -> dict[str, Any]:
    """The content of a recipe's file.

    Raises:
        InputError: if it is no YAML mapping of text to values, or uses anchors, aliases or a key twice.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"the recipe {file} has more than {_LARGEST:,} bytes: it is no recipe")
        options = yaml.load(content.decode("utf-8-sig"), _PlainLoader)  # noqa: S506 - it is a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text: {error}"
        raise InputError(f"cannot read the recipe {file}: {reason}") from error
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {file} is not YAML that can be used: {_reason(error)}") from error
    except (RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        # nested too deeply, or what PyYAML lets out of a date or number that is none
        raise InputError(f"the recipe {file} is not YAML that can be used: {one_line(error)}") from error
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise InputError(f"the recipe {file} is not a mapping of options to values, such as 'ratio: 0.2'")
    return options


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong and where, as one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())
