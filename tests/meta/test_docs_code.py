"""Code in the documentation works: Python blocks run, commands parse, options and names exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from tiny_checkpoints import stage_documentation

from shapcut.cli.app import build_app
from shapcut.comparison.contestants import parse_methods
from shapcut.host.host import Host, build_host
from shapcut.pipeline.parts import make_parts
from shapcut.recipe.fields import FIELDS
from shapcut.recipe.recipe import make_recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TESTED_ELSEWHERE = {
    "docs/writing-a-plugin.md": "tests/unit/plugins/test_docs_plugin.py",
    "docs/writing-an-adapter.md": "tests/third_party/test_docs_adapter.py",
}
MODELS = ("path", "small", "mended")
"""Checkpoints that Python blocks may name; `text.txt` is there, too."""

STEPS_OF_PAGES = ("narrow",)
"""Post-pruning steps that a page writes itself."""

OF_OTHER_PROGRAMS = {
    "--merge": "llama-gguf-split",
    "--no-build-isolation": "pip",
    "--no-deps": "pip",
    "--prune-layers": "llama-quantize",
    "--before": "benchmarks/large_vocabulary.py",
    "--check": "benchmarks/tables.py",
    "--fill": "benchmarks/tutorial.py",
    "--instructions": "benchmarks/large_vocabulary.py",
    "--models": "benchmarks/selection.py",
    "--once": "benchmarks/selection.py",
    "--part": "benchmarks/quantization.py",
    "--text": "benchmarks/speed.py",
    "--tokenizer": "benchmarks/zoo/train.py",
    "--tiny": "benchmarks/gpu.py",
}

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r"^```(?:console|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of every command in shell blocks; output, comments, pipes and variables left out."""
    for block in _SHELL.findall(text):
        prompts = "$ " in block
        for line in block.splitlines():
            if line.startswith("$ ") or not prompts:
                for command in line.removeprefix("$ ").split(" | "):
                    words = shlex.split(command, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    if words:
                        yield words


WITH_PYTHON = [name_of(page) for page in PAGES if _PYTHON.search(page.read_text(encoding="utf-8"))]
COMMANDS = [
    pytest.param(words, id=f"{name_of(page)}: {' '.join(words)}")
    for page in PAGES
    for words in shell_commands(page.read_text(encoding="utf-8"))
    if words[0] == "shapcut"
]


@pytest.fixture(scope="module")
def host() -> Host:
    return build_host()


@pytest.fixture(scope="module")
def group() -> Any:
    return build_app()


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of Python blocks."""
    stage_documentation(tmp_path, tokenizer, *MODELS, layers=7)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("page", [name for name in WITH_PYTHON if name not in TESTED_ELSEWHERE])
def test_python_blocks_run_in_their_order(page: str) -> None:
    names: dict[str, Any] = {}
    for block in _PYTHON.findall(text_of(page)):
        exec(compile(block, page, "exec"), names)  # noqa: S102 - the page's own code


def test_what_is_left_to_other_tests_is_tested_there() -> None:
    assert set(TESTED_ELSEWHERE) <= set(WITH_PYTHON)
    for page, test in TESTED_ELSEWHERE.items():
        assert f'"{Path(page).name}"' in text_of(test)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words: list[str], group: Any, host: Host) -> None:
    name, *arguments = words[1:]
    given = group.commands[name].make_context(name, arguments).params
    if name == "evaluate":  # makes no recipe
        return
    if given.get("methods"):
        parse_methods(given["methods"])
    options = {name: given[name] for name in FIELDS if given.get(name)}
    if name == "compare":
        options.pop("remove", None)
    if given.get("then"):
        options["then"] = [step for step in given["then"] if not step.startswith(STEPS_OF_PAGES)]
    made = make_recipe({"model": given.get("model") or "MODEL", **options})
    make_parts(made, host)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {
        words[-1]
        for page in PAGES
        for words in shell_commands(page.read_text(encoding="utf-8"))
        if words[0] == "make"
    }
    named |= {
        target
        for page in PAGES
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= targets


def test_every_option_that_is_named_exists(group: Any) -> None:
    known = {"--help", *OF_OTHER_PROGRAMS, *(option for p in group.params for option in p.opts)}
    parameters = [p for command in group.commands.values() for p in command.params]
    known |= {o for p in parameters for o in (*p.opts, *p.secondary_opts)}
    named = {name_of(page): set(_OPTION.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert {page: sorted(options - known) for page, options in named.items() if options - known} == {}


def test_a_stale_command_is_noticed(group: Any) -> None:
    with pytest.raises(click.ClickException, match="--no-such-option"):
        group.commands["prune"].make_context("prune", ["MODEL", "--out", "x", "--no-such-option"])
