"""Words that a shell may put in place of an unfinished one."""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from shapcut.host.host import Host

Words = Callable[[Host], Iterable[str]]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def one_of(words: Words, *, listed: bool = False) -> Complete:
    """Complete one of some words.

    Args:
        words: the words, asked for when a shell completes one.
        listed: whether several may be given with commas between; the last one is completed.
    """

    def complete(ctx: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
        del parameter
        before, comma, last = word.rpartition(",") if listed else ("", "", word)
        known = sorted(set(words(ctx.ensure_object(Host))))
        return [CompletionItem(f"{before}{comma}{name}") for name in known if name.startswith(last)]

    return complete


def offered(kind: str) -> Complete:
    """Complete a name that plugins offer; ``kind`` is an attribute of `Host`."""
    return one_of(lambda host: [entry.name for entry in getattr(host, kind)])


def file_or(words: Words) -> Complete:
    """Complete one of some words; if none begins like that, a path."""
    complete_words = one_of(words)

    def complete(ctx: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
        return complete_words(ctx, parameter, word) or [CompletionItem(word, type="file")]

    return complete


def models(host: Host) -> Iterable[str]:
    """The demo models."""
    from shapcut.models.demo import DEMO_MODELS, DEMO_PREFIX

    del host
    return [f"{DEMO_PREFIX}{name}" for name in DEMO_MODELS]


def texts(host: Host) -> Iterable[str]:
    """The text that comes with shapcut, and the prefix of the hub's."""
    from shapcut.data.text import BUILTIN, GENERAL, HUB_PREFIX

    del host
    return [BUILTIN, GENERAL, HUB_PREFIX]


def methods(host: Host) -> Iterable[str]:
    """The named methods."""
    from shapcut.recipe.methods import METHODS

    del host
    return METHODS
