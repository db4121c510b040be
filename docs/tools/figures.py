"""Draws the figures of docs/concepts.md: small SVG files on a light card, so that they read on any page.

python docs/tools/figures.py
"""

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

FIGURES = Path(__file__).resolve().parents[1] / "figures"
INK, QUIET, BLUE, ORANGE, PALE = "#1f2933", "#7b8794", "#2f6fb0", "#c65d13", "#e4e7eb"
COALITIONS = ((1, 1, 0, 1, 1), (1, 1, 0, 1, 0), (1, 1, 1, 0, 1))
RACE = ((16, "8", 60), (8, "+8", 60), (4, "+16", 120), (2, "+32", 240))
"""Of each stage of the default race: sets, further windows, width of the bars."""


def main() -> None:
    """Write all figures."""
    FIGURES.mkdir(exist_ok=True)
    for name, made in ALL.items():
        (FIGURES / f"{name}.svg").write_text(made(), encoding="utf-8")


def game() -> str:
    """Layers, a coalition of them, and its value."""
    parts = [
        text(20, 28, "all layers: the players", bold=True),
        text(20, 118, "a coalition: those that run", bold=True),
    ]
    for index in range(6):
        x, there = 70 + 78 * index, index not in {2, 4}
        parts += [box(x, 42, 58, 34, BLUE, str(index)), arrow(x - 20, 59, x)]
        parts += [box(x, 132, 58, 34, BLUE if there else None, str(index))]
        parts.append(arrow(x - 20, 149, x) if there else curve(x - 20, 149, x + 58, 149, 30))
    parts += [arrow(518, 59, 545), arrow(518, 149, 545)]
    parts += [text(552, 63, "value of everybody"), text(552, 153, "value without 2 and 4")]
    parts.append(
        text(20, 205, "What an absent layer was given is handed on unchanged; no weight is touched.", QUIET)
    )
    return svg(720, 222, parts)


def prefixes() -> str:
    """Coalitions that agree on their first layers share the hidden state."""
    runs = sum(map(sum, COALITIONS))
    kept = [[layer for layer, here in enumerate(coalition) if here] for coalition in COALITIONS]
    shared = len({tuple(layers[: end + 1]) for layers in kept for end in range(len(layers))})
    parts = [text(20, 26, f"one by one: {runs} block runs", bold=True)]
    for row, coalition in enumerate(COALITIONS):
        parts += [
            box(20 + 52 * layer, 40 + 34 * row, 44, 26, BLUE if here else None, str(layer))
            for layer, here in enumerate(coalition)
        ]
    parts.append(text(330, 26, f"as a tree: {shared} block runs", bold=True))
    boxes = ((330, 74, "0"), (388, 74, "1"), (466, 48, "3"), (542, 48, "4"), (466, 112, "2"), (542, 112, "4"))
    parts += [box(x, y, 44, 26, BLUE, name) for x, y, name in boxes]
    parts += [line(374, 87, 388, 87), line(432, 87, 466, 61), line(432, 87, 466, 125), line(510, 61, 542, 61)]
    parts += [line(510, 125, 542, 125), line(586, 61, 612, 61), line(586, 125, 612, 125)]
    parts += [line(510, 61, 530, 91), line(530, 91, 612, 91)]
    parts += [text(618, y, " ".join(map(str, layers))) for y, layers in zip((65, 95, 129), kept, strict=True)]
    parts.append(
        text(
            20,
            168,
            "A state that several coalitions have in common is computed once; a skipped layer costs nothing.",
            QUIET,
        )
    )
    return svg(720, 184, parts)


def race() -> str:
    """The finalists' race: many sets on little text, few on much."""
    parts = [text(20, 26, "windows", bold=True), text(20, 54, "sets that"), text(20, 70, "are left")]
    x = 110
    for field, windows, width in RACE:
        parts.append(text(x + width / 2 - 3, 26, windows, middle=True))
        parts += [bar(x, 40 + 9 * row, width - 6, 6, BLUE if row else ORANGE) for row in range(field)]
        parts.append(text(x + width / 2 - 3, 202, str(field), middle=True))
        x += width
    parts += [text(20, 202, "sets", bold=True), text(604, 48, "the plan", bold=True)]
    parts.append(
        text(
            20,
            226,
            "Each time that the text has doubled, the worse half by the mean so far drops out.",
            QUIET,
        )
    )
    return svg(720, 242, parts)


def flow() -> str:
    """What happens in a run, and which file each part leaves."""
    steps = (
        ("model, text", ""),
        ("game", "evaluations.sqlite"),
        ("estimator", "contributions.json"),
        ("selector", "plan.json"),
        ("removal", ""),
        ("steps", ""),
        ("checkpoint", "model, card, recipe"),
    )
    parts = []
    for index, (name, file) in enumerate(steps):
        x = 14 + 116 * index
        parts.append(box(x, 34, 96, 36, BLUE if index not in {0, 6} else ORANGE, name))
        if index:
            parts.append(arrow(x - 20, 52, x))
        if file:
            parts += [
                line(x + 48, 70, x + 48, 86, dashed=True),
                text(x + 48, 100, file, QUIET, middle=True, size=10.5),
            ]
    parts += [curve(294, 34, 178, 34, 20), text(236, 14, "asks for values", QUIET, middle=True, size=10.5)]
    parts.append(
        text(
            14,
            130,
            "A run may stop at the plan and go on from it; a killed one goes on from what it has measured.",
            QUIET,
        )
    )
    return svg(820, 146, parts)


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    """A whole file: the parts on a light card."""
    size = f'width="{width - 1}" height="{height - 1}"'
    card = f'<rect x="0.5" y="0.5" {size} rx="6" fill="#fff" stroke="{PALE}"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="system-ui, sans-serif">'
    )
    return "\n".join([head, card, *filter(None, parts), "</svg>"]) + "\n"


def text(
    x: float,
    y: float,
    words: str,
    fill: str = INK,
    *,
    bold: bool = False,
    middle: bool = False,
    size: float = 13,
) -> str:
    """A line of words, from x on or around it."""
    more = (' font-weight="600"' if bold else "") + (' text-anchor="middle"' if middle else "")
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}"{more}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str | None, name: str) -> str:
    """A filled box with a name in it, or a dashed one for what is absent."""
    style = f'fill="{fill}"' if fill else f'fill="none" stroke="{QUIET}" stroke-dasharray="4 3"'
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" {style}/>'
    return shape + text(x + width / 2, y + height / 2 + 4.5, name, "#fff" if fill else QUIET, middle=True)


def bar(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A bar without a name."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}"/>'


def line(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    """A straight line."""
    more = ' stroke-dasharray="3 3"' if dashed else ""
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{QUIET}" stroke-width="1.5" fill="none"{more}/>'


def arrow(x1: float, y: float, x2: float) -> str:
    """A horizontal arrow."""
    return (
        line(x1, y, x2, y) + f'<path d="M{x2 - 6:g} {y - 4:g} L{x2:g} {y:g} L{x2 - 6:g} {y + 4:g}" '
        f'fill="none" stroke="{QUIET}" stroke-width="1.5"/>'
    )


def curve(x1: float, y1: float, x2: float, y2: float, rise: float) -> str:
    """A line that goes over something."""
    return (
        f'<path d="M{x1:g} {y1:g} C{x1:g} {y1 - rise:g} {x2:g} {y2 - rise:g} {x2:g} {y2:g}" '
        f'stroke="{ORANGE}" stroke-width="1.5" fill="none"/>'
    )


ALL = {"game": game, "prefix-tree": prefixes, "race": race, "run": flow}

if __name__ == "__main__":
    main()
