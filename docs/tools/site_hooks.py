"""What the documentation site needs beyond `mkdocs.yml`: formulas, and files that lie outside `docs/`.

Pages are written for a code forge: a link may lead to any file of the repository. The site gets those files,
too: Markdown as pages and all else as it is, under `repository/`, and the links lead there.
"""

import html
import re
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Files outside `docs/` that the navigation names."""

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<fragment>#[^)\s]*)?(?=\))")
_SHOWN_FILE = re.compile(r"^<!-- (\S+\.\w+) -->\n```(\w+)$", re.MULTILINE)
_MARK = re.compile(r"^<!-- \w+:(?:begin|end) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Formulas become MathML when the site is built; headings get the anchors that forges give them."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": formula}]
    }
    config.mdx_configs["toc"] = {"permalink": True, "slugify": slugify(case="lower")}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside `docs/` that pages link to, and those that these link to."""
    waiting = list(ALWAYS)
    for file in files.documentation_pages():
        waiting += outside_links(f"docs/{file.src_uri}", Path(file.abs_src_path).read_text("utf-8"))
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(f"repository/{path}") is not None:
            continue
        files.append(repository_file(config, path))
        if path.endswith(".md"):
            waiting += outside_links(path, (ROOT / path).read_text("utf-8"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that the site can follow, and the marks of generated tables taken out."""
    source = page.file.src_uri
    path = source.removeprefix("repository/") if source.startswith("repository/") else f"docs/{source}"
    shown = _SHOWN_FILE.sub(r'```\2 title="\1"', markdown)
    return outside_fences(_MARK.sub("", shown), lambda text: with_site_links(path, text))


def formula(source: str, *_: Any, **__: Any) -> str:
    """One displayed formula as MathML, which browsers draw with their own fonts."""
    mathml = "".join(convert(line, display="block") for line in source.split("\n\n") if line.strip())
    return f'<div class="math">{mathml}</div>'


def repository_file(config: Any, path: str) -> File:
    """A file of the repository as a file of the site."""
    name = f"repository/{path}"
    if path.endswith(".md"):
        return File.generated(config, name, content=(ROOT / path).read_text("utf-8"))
    return File.generated(config, name, abs_src_path=str(ROOT / path))


def outside_links(path: str, markdown: str) -> list[str]:
    """Files outside `docs/` that the page at ``path`` links to, by their paths in the repository."""
    text = _FENCE.sub("", markdown)
    found = [target_of(path, match["path"]) for match in _LINK.finditer(text)]
    return [target for target in found if target and not target.startswith("docs/") and target != "README.md"]


def with_site_links(path: str, text: str) -> str:
    """The text of the page at ``path`` with links to where the site has their targets."""

    def moved(match: re.Match[str]) -> str:
        target = target_of(path, match["path"])
        if target is None:
            return match[0]
        return relpath(place_of(target), PurePosixPath(place_of(path)).parent) + (match["fragment"] or "")

    return _LINK.sub(moved, text)


def target_of(path: str, link: str) -> str | None:
    """The file that a relative link leads to, by its path in the repository; None if there is none."""
    target = (ROOT / path).parent.joinpath(html.unescape(link)).resolve()
    if target.is_dir():
        target /= "README.md"
    if not target.is_file() or not target.is_relative_to(ROOT):
        return None
    return target.relative_to(ROOT).as_posix()


def place_of(path: str) -> str:
    """Where the site has a file of the repository; README.md is the site's first page."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def outside_fences(markdown: str, change: Any) -> str:
    """The page with ``change`` made to everything but its code blocks."""
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
