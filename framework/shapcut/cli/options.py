"""The options of the command line; those that make a recipe are declared once and given to each command.

They are taken as text: `shapcut.recipe.recipe` is the one place that says what a value may be.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="directory, file, hub id or demo:smollm2-135m")
]
RecipeModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="directory, file, hub id or demo:smollm2-135m; default the recipe's"
    ),
]
Out = Annotated[Path, typer.Option("--out", help="new directory for the pruned checkpoint")]
RunDirectory = Annotated[
    Path | None, typer.Option("--run", help="where evaluations are kept; a second start resumes")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="YAML recipe; options given here win")]
AsJson = Annotated[bool, typer.Option("--json", help="result as JSON on stdout")]
NewOut = Annotated[
    Path | None,
    typer.Option("--out", help="new directory for the pruned checkpoint [required but for --dry-run]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done and what it costs")]
Throughput = Annotated[
    float, typer.Option(metavar="T", help="with --dry-run: TFLOP/s that the device sustains")
]
Calibration = Annotated[
    str | None, typer.Option(help="builtin, a .txt or .jsonl file, or hf:NAME [default: builtin]")
]
SequenceLength = Annotated[str | None, typer.Option(metavar="N", help="tokens a window [default: 128]")]
HeldOutSamples = Annotated[
    str | None, typer.Option(metavar="N", help="windows of held-out text [default: 32]")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ... [default: auto]")]
Trust = Annotated[bool | None, typer.Option("--trust-remote-code", help="run code that comes with the model")]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="branch, tag or commit of a hub id")]
TextOnly = Annotated[
    bool | None, typer.Option("--text-only", help="only the language model of a multimodal model")
]
Seed = Annotated[str | None, typer.Option(metavar="N", help="source of all randomness [default: 0]")]
Granularity = Annotated[str | None, typer.Option(help="what a player is: block or sublayer [default: block]")]

RECIPE_OPTIONS: dict[str, Any] = {
    "remove": Annotated[str | None, typer.Option(metavar="N", help="number of players to remove")],
    "ratio": Annotated[
        str | None, typer.Option(metavar="R", help="share of the players to remove, between 0 and 1")
    ],
    "parameters": Annotated[
        str | None, typer.Option(metavar="N", help="parameters that may stay, such as 100M")
    ],
    "memory": Annotated[
        str | None, typer.Option(metavar="SIZE", help="weights that the checkpoint may have, such as 250MiB")
    ],
    "speedup": Annotated[
        str | None,
        typer.Option(metavar="S", help="how many times faster, by the measured time of each player"),
    ],
    "nested": Annotated[
        bool | None,
        typer.Option(
            "--nested", help="of several targets (a,b,c), the smaller cut is part of the larger one"
        ),
    ],
    "preset": Annotated[str | None, typer.Option(help="a named method: paper, greedy, taylor, ...")],
    "granularity": Granularity,
    "estimator": Annotated[str | None, typer.Option(help="NAME[:key=value,...] [default: surrogate]")],
    "selector": Annotated[str | None, typer.Option(help="NAME[:key=value,...] [default: search]")],
    "sampler": Annotated[
        str | None, typer.Option(help="NAME[:key=value,...] [default: the estimator's own]")
    ],
    "utility": Annotated[str | None, typer.Option(help="a coalition's worth [default: log-likelihood]")],
    "budget": Annotated[
        str | None, typer.Option(metavar="N", help="coalitions that may be evaluated [default: 500]")
    ],
    "calibration": Calibration,
    "samples": Annotated[str | None, typer.Option(metavar="N", help="calibration windows [default: 16]")],
    "sequence_length": SequenceLength,
    "finalist_samples": Annotated[
        str | None,
        typer.Option(
            metavar="N", help="windows that the best sets are compared on, 0 for none [default: 64]"
        ),
    ],
    "mend_finalists": Annotated[
        bool | None,
        typer.Option("--mend-finalists", help="compare the best sets after the steps that compensate"),
    ],
    "held_out_samples": HeldOutSamples,
    "then": Annotated[
        list[str] | None, typer.Option(help="post-pruning step STEP[:key=value,...], repeatable, in order")
    ],
    "device": Device,
    "executor": Annotated[
        str | None,
        typer.Option(help="where coalitions are measured: NAME[:key=value,...] [default: local]"),
    ],
    "dtype": Annotated[
        str | None,
        typer.Option(help="arithmetic of coalitions: auto, float32, bfloat16, float16 [default: auto]"),
    ],
    "memory_budget": Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="for hidden states, such as 2GiB [default: by what is free]"),
    ],
    "batch_size": Annotated[
        str | None,
        typer.Option(metavar="N", help="sequences that go through a layer at once [default: by length]"),
    ],
    "compile": Annotated[
        str | None,
        typer.Option(help="fused kernels: on, off, or auto, where they pay for compiling [default: auto]"),
    ],
    "offload": Annotated[
        str | None,
        typer.Option(help="weights: off, auto (what does not fit elsewhere), disk [default: off]"),
    ],
    "seed": Seed,
    "trust_remote_code": Trust,
    "revision": Revision,
    "text_only": TextOnly,
}
"""Fields of `shapcut.recipe.recipe.Recipe`, each an option of the same name."""


def takes_options(available: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these recipe options; it receives those given in its parameter ``options``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"
        ]
        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in available.items()
        ]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            options = {name: given.pop(name) for name in available}
            chosen = {name: value for name, value in options.items() if value not in (None, [])}
            command(**given, options=chosen)

        wrapper.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *extra]}
        return wrapper

    return decorate


takes_recipe = takes_options(RECIPE_OPTIONS)
"""Give a command every recipe option."""
