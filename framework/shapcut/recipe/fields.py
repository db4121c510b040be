"""The fields of a recipe: name, meaning, default, and how the command line writes the value.

The model `shapcut.recipe.recipe.Recipe`, the options of the commands, the help and the JSON schema are made
from this table. It imports no pydantic, so that the command line starts quickly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from shapcut.game.checkpoint_form import ALLOWED_FORMS
from shapcut.game.granularity import GRANULARITIES
from shapcut.models.placement import Dtype, Offload

Compile = Literal["auto", "on", "off"]
Vocabulary = Literal["sampled", "whole"]
"""Whether layers are compiled."""

MODEL = "directory, file, hub id or demo:smollm2-135m"
"""What names a model."""

_SPEC = "NAME[:key=value,...]"


@dataclass(frozen=True, slots=True)
class RecipeField:
    """A field of a recipe.

    Attributes:
        name: as in a recipe file and in Python; the option has hyphens for underscores.
        group: the heading of its option in the help.
        meaning: one line.
        metavar: the placeholder of its value in the help; empty for a switch.
        default: the value without a recipe, option or preset that gives one.
        default_text: the default in words, where the value does not say it.
        choices: the values, if they are few.
        repeatable: whether the option may be given several times, in order.
        two_way: whether it is a switch that is neither on nor off by default, with an option for each.
    """

    name: str
    group: str
    meaning: str
    metavar: str = ""
    default: Any = None
    default_text: str = ""
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    two_way: bool = False

    @property
    def option(self) -> str:
        """The name of its option, which turns off what is on by default; both names if there are two."""
        name = self.name.replace("_", "-")
        return f"--{name}/--no-{name}" if self.two_way else f"--{'no-' * (self.default is True)}{name}"

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.two_way or isinstance(self.default, bool)


def _target(name: str, metavar: str, meaning: str) -> RecipeField:
    return RecipeField(name, "Target", meaning, metavar)


_ALL = (
    _target("remove", "N", "number of players to remove"),
    _target("ratio", "R", "share of the players to remove, between 0 and 1; of the parameters if mixed"),
    _target("parameters", "N", "parameters that may stay, such as 100M"),
    _target("memory", "SIZE", "size of the weights that may stay, such as 250MiB"),
    _target("cache", "SIZE@N", "size of the cache of one sequence after N tokens, such as 64MB@4096"),
    _target("speedup", "S", "speedup to reach, by the measured time of each player"),
    RecipeField(
        "nested", "Target", "with several targets (a,b,c): each cut contains the smaller ones", default=False
    ),
    RecipeField("preset", "Method", "a named method: paper, greedy, taylor, ...", "NAME"),
    RecipeField(
        "granularity",
        "Target",
        f"what a player is: {', '.join(GRANULARITIES)}",
        "NAME",
        default="block",
        choices=GRANULARITIES,
    ),
    RecipeField(
        "form",
        "Target",
        "plain: the checkpoint needs no code of its own; remote-code: it may come with a modelling file",
        "NAME",
        default="plain",
        choices=ALLOWED_FORMS,
    ),
    RecipeField("estimator", "Method", "how contributions are estimated", _SPEC, default="surrogate"),
    RecipeField("selector", "Method", "how the players to remove are chosen", _SPEC, default="search"),
    RecipeField("utility", "Method", "the value of a coalition", _SPEC, default="log-likelihood"),
    RecipeField("sampler", "Method", "how coalitions are drawn", _SPEC, default_text="the estimator's own"),
    RecipeField(
        "budget",
        "Method",
        "coalitions to evaluate at most; one on a part of the text counts as that part",
        "N",
        default=500,
    ),
    RecipeField(
        "calibration",
        "Text",
        "builtin, general, self (by the model), a .txt or .jsonl file, hf:NAME, or several: a.txt:2+self",
        "SOURCE",
        default="builtin",
    ),
    RecipeField("samples", "Text", "number of calibration windows", "N", default=16),
    RecipeField("sequence_length", "Text", "tokens per window", "N", default=128),
    RecipeField(
        "finalist_samples",
        "Method",
        "number of windows to compare the best sets on, 0 for no comparison",
        "N",
        default=64,
    ),
    RecipeField(
        "mend_finalists",
        "Method",
        "compare the best sets after the steps that compensate",
        default=False,
    ),
    RecipeField("held_out_samples", "Text", "number of windows of held-out text", "N", default=32),
    RecipeField(
        "judge_on",
        "Text",
        "also measure perplexity on the last quarter of this text; repeat for several, or none",
        "SOURCE",
        default_text="builtin and general, whichever is not the calibration text",
        repeatable=True,
    ),
    RecipeField("tasks", "Tasks", "zero-shot, or tasks of lm-evaluation-harness", "A,B"),
    RecipeField("task_data", "Tasks", "directory with a .jsonl file of questions for each task", "DIR"),
    RecipeField("limit", "Tasks", "questions of each task at most", "N", default_text="all"),
    RecipeField(
        "then",
        "Method",
        "post-pruning step; repeat for several, in order",
        "STEP[:key=value,...]",
        default=(),
        repeatable=True,
    ),
    RecipeField(
        "mend",
        "Method",
        "compensate what was cut, where that can be done and no step given does it",
        default_text="on, but off for a GGUF file and with a preset",
        two_way=True,
    ),
    RecipeField("device", "Machine", "auto, cpu, cuda, cuda:1, ...", "NAME", default="auto"),
    RecipeField("executor", "Machine", "where coalitions are evaluated", _SPEC, default="local"),
    RecipeField(
        "dtype",
        "Machine",
        f"precision of the evaluation: {', '.join(get_args(Dtype))}",
        "NAME",
        default="auto",
        choices=get_args(Dtype),
    ),
    RecipeField(
        "memory_budget",
        "Machine",
        "memory for hidden states, such as 2GiB",
        "SIZE",
        default_text="by what is free",
    ),
    RecipeField(
        "batch_size", "Machine", "sequences per forward pass of a layer", "N", default_text="by their length"
    ),
    RecipeField(
        "compile",
        "Machine",
        "compile layers: on, off, or auto (where it pays)",
        "NAME",
        default="auto",
        choices=get_args(Compile),
    ),
    RecipeField(
        "vocabulary",
        "Machine",
        "tokens whose probabilities the search adds up: whole, or sampled where there are many",
        "NAME",
        default="sampled",
        choices=get_args(Vocabulary),
    ),
    RecipeField(
        "offload",
        "Machine",
        "weights: off, auto (what does not fit elsewhere), disk",
        "NAME",
        default="off",
        choices=get_args(Offload),
    ),
    RecipeField("seed", "Method", "seed of all random numbers", "N", default=0),
    RecipeField("trust_remote_code", "Machine", "run code that comes with the model", default=False),
    RecipeField("revision", "Model", "branch, tag or commit of a hub id", "NAME"),
    RecipeField("text_only", "Model", "only the language model of a multimodal model", default=False),
)

FIELDS: Mapping[str, RecipeField] = MappingProxyType({field.name: field for field in _ALL})
"""All fields but the model, by name, in the order of the options."""
