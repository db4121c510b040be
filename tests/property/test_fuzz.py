"""Arbitrary and damaged input of every kind: it works, or it is refused in one line; nothing else comes out.

`SHAPCUT_FUZZ=5000 python -m pytest tests/property/test_fuzz.py` tries as many examples of each kind.
"""

import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shapcut.cli.compare import _numbers
from shapcut.comparison.contestants import parse_methods
from shapcut.data.mixture import check_source
from shapcut.game.plan import RemovalPlan
from shapcut.game.store import EvaluationStore
from shapcut.host.host import Host, build_host, checkpoint_formats
from shapcut.models.loading import load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.pipeline.resume import finished_earlier
from shapcut.recipe.methods import METHODS
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.support.errors import ShapcutError
from shapcut.support.run_directory import Run
from shapcut_adapters.rwkv.examples import tiny_rwkv
from shapcut_adapters.rwkv.format import RwkvPth
from shapcut_adapters.rwkv.weights import write_weights
from shapcut_plugins.report.comparison_data import read_comparison
from shapcut_plugins.report.run_data import read_run

EXAMPLES = int(os.environ.get("SHAPCUT_FUZZ", "25"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SHAPCUT_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
fewer = settings(few, max_examples=max(8, EXAMPLES // 5))

VALID: dict[str, Any] = {
    "model": "some/model",
    "ratio": [0.1, 0.25],
    "estimator": "surrogate",
    "selector": "search:batch=4",
    "budget": 100,
    "calibration": "builtin",
    "samples": 4,
    "sequence_length": 64,
    "then": ["compensate", "heal:steps=3", "torchao:kind=int4,group_size=32"],
    "memory_budget": "2GiB",
    "seed": 1,
    "trust_remote_code": False,
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.binary(max_size=4),
    st.text(max_size=12),
    st.sampled_from(
        [
            "1e400",
            "-0",
            ".inf",
            "nan",
            "10**9",
            "1_000",
            "0x10",
            "250MiB",
            "1e9GiB",
            "9" * 30,
            "½",
            "infB",
            "nanM",
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
yaml_scalars = st.one_of(
    st.from_regex(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}( [0-9]{1,2}:[0-9]{2}:[0-9]{2})?", fullmatch=True),
    st.from_regex(r"[-+]?(0[xob])?[0-9_:.]{1,8}(e[-+]?[0-9]{1,4})?", fullmatch=True),
    st.sampled_from(
        ["!!int a", "!!float x", "!!binary ?", "!!timestamp b", "!!set {a}", "*a", "&a [*a]", "<<: 3"]
    ),
    st.sampled_from(["!!python/name:os.system", "{<<: [1]}", "[" * 400, "{a: " * 400, "!!bool maybe", "? a"]),
)
specs = st.text(
    st.sampled_from(list("abkxyz0123456789=:,.-_ ½\n\u0000eE+")) | st.characters(codec="utf-8"), max_size=24
)


@pytest.fixture(scope="module")
def host() -> Host:
    return build_host()


def holds_or_is_refused(action: Callable[[], Any]) -> Any:
    """What an action gives, or None if it is refused in a line of its own words."""
    try:
        return action()
    except ShapcutError as error:
        refusal = str(error)
    assert refusal.strip()
    return None


def use(recipe: Recipe) -> None:
    """All that is done with a recipe before a model is loaded."""
    assert recipe.target_labels() is not None
    recipe.to_yaml()
    holds_or_is_refused(lambda: recipe.n_remove(12))


@few
@given(text=st.one_of(st.text(), st.text("{}[]:-&*!|>%@`'\"#,? \n\tabc012."), values.map(repr)))
def test_texts_as_recipes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    recipe = holds_or_is_refused(lambda: make_recipe({"model": "m"}, file))
    if recipe is not None:
        use(recipe)


@few
@given(key=st.sampled_from(sorted(Recipe.model_fields)), scalar=yaml_scalars)
def test_odd_values_of_yaml(key: str, scalar: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{key}: {scalar}\n", encoding="utf-8")
    recipe = holds_or_is_refused(lambda: make_recipe({"model": "m"}, file))
    if recipe is not None:
        use(recipe)


@few
@given(content=st.binary(max_size=64))
def test_bytes_as_recipes(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    holds_or_is_refused(lambda: make_recipe({"model": "m"}, file))


@few
@given(key=st.sampled_from(sorted(Recipe.model_fields)), value=values, dropped=st.sampled_from(sorted(VALID)))
def test_recipes_with_another_value(key: str, value: Any, dropped: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    content = {name: given for name, given in VALID.items() if name != dropped} | {key: value}
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    recipe = holds_or_is_refused(lambda: make_recipe({}, file))
    if recipe is not None:
        use(recipe)
        file.write_text(recipe.to_yaml(), encoding="utf-8")
        again = make_recipe({}, file)
        assert repr(again) == repr(recipe)


@few
@given(
    key=st.sampled_from(
        ["remove", "ratio", "parameters", "memory", "cache", "speedup", "memory_budget", "budget"]
    ),
    text=st.one_of(specs, st.lists(scalars.map(str), min_size=1, max_size=3).map(",".join)),
)
def test_amounts_on_the_command_line(key: str, text: str) -> None:
    recipe = holds_or_is_refused(lambda: make_recipe({"model": "m", key: text}))
    if recipe is not None:
        use(recipe)


@few
@given(text=st.one_of(specs, st.lists(scalars.map(str), max_size=3).map(",".join)))
def test_lists_of_numbers(text: str) -> None:
    for kind in (int, float):
        holds_or_is_refused(lambda kind=kind: _numbers("--ratios", text, kind))


@few
@given(data=st.data(), tail=st.one_of(specs, values.map(str)))
def test_names_with_options(data: st.DataObject, tail: str, host: Host) -> None:
    kind = data.draw(
        st.sampled_from(["estimators", "selectors", "samplers", "utilities", "executors", "postprocessors"])
    )
    registry = getattr(host, kind)
    name = data.draw(st.sampled_from(sorted(entry.name for entry in registry)) | specs)
    known = list(_options(registry, name))
    key = data.draw(st.sampled_from(known)) if known else "key"
    for text in (name + tail, f"{name}:{tail}", f"{name}:{key}={tail}"):
        holds_or_is_refused(lambda text=text: registry.create(text))


def _options(registry: Any, name: str) -> Iterator[str]:
    for entry in registry:
        if entry.name == name:
            yield from inspect.signature(entry.factory).parameters


@few
@given(text=specs, name=st.sampled_from(sorted(METHODS)))
def test_lists_of_methods(text: str, name: str) -> None:
    for methods in (text, f"{name}{text}", f"{name}@{text}", f"{name},{text}", f"{name}+{text}"):
        holds_or_is_refused(lambda methods=methods: parse_methods(methods))


damage = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["flip", "cut", "drop", "insert", "zero", "ones"]),
        st.integers(0, 7),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, changes: list[tuple[float, str, int, bytes]]) -> bytes:
    """Content with some bits, bytes or its end different; half of the places are among the first bytes."""
    changed = bytearray(content)
    for place, kind, bit, more in changes:
        if not changed:
            break
        at = int(place * min(len(changed), 600 if bit < 4 else len(changed)))
        if kind == "flip":
            changed[at] ^= 1 << bit
        elif kind == "cut":
            del changed[at:]
        elif kind == "drop":
            del changed[at : at + len(more)]
        elif kind == "insert":
            changed[at:at] = more
        else:
            changed[at : at + len(more)] = (b"\0" if kind == "zero" else b"\xff") * len(more)
    return bytes(changed)


@few
@given(changes=damage)
def test_damaged_plans(changes: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    RemovalPlan.removing([1, 2], 6, measured_value=0.5, reason="ä").write(plan)
    plan.write_bytes(damaged(plan.read_bytes(), changes))
    holds_or_is_refused(lambda: RemovalPlan.read(plan))


@few
@given(value=values, key=st.sampled_from(sorted(RemovalPlan.model_fields)))
def test_plans_with_another_value(value: Any, key: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    content = json.loads(RemovalPlan.removing([1, 2], 6).model_dump_json()) | {key: value}
    plan.write_text(json.dumps(content, default=str))
    holds_or_is_refused(lambda: RemovalPlan.read(plan))


@few
@given(
    content=st.one_of(
        st.binary(max_size=80), values.map(lambda value: json.dumps(value, default=str).encode())
    )
)
def test_calibration_files(content: bytes, tmp_path: Path) -> None:
    for name in ("text.txt", "text.jsonl"):
        (tmp_path / name).write_bytes(content)
        holds_or_is_refused(lambda name=name: check_source(str(tmp_path / name)))


@pytest.fixture(scope="module")
def pth_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("rwkv") / "tiny.pth"
    model, _ = tiny_rwkv("7", 0)
    write_weights({name: tensor.data for name, tensor in model.raw_weights().items()}, file)
    return file.read_bytes()


@few
@given(changes=damage)
def test_damaged_pth_files(changes: Any, pth_bytes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.pth"
    file.write_bytes(damaged(pth_bytes, changes))
    holds_or_is_refused(lambda: inspect_source(ModelSource.find(str(file), formats=(RwkvPth(),))))
    holds_or_is_refused(lambda: load(ModelSource.find(str(file), formats=(RwkvPth(),))))


@fewer
@given(changes=damage)
def test_damaged_gguf_files(changes: Any, tiny_gguf_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(damaged(tiny_gguf_file.read_bytes(), changes))
    holds_or_is_refused(lambda: inspect_source(ModelSource.find(str(file))))
    holds_or_is_refused(lambda: load(ModelSource.find(str(file))))


@fewer
@given(
    changes=damage,
    name=st.sampled_from(["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]),
)
def test_damaged_checkpoints(
    changes: Any, name: str, tiny_llama_directory: Path, tmp_path: Path, host: Host
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_llama_directory, directory, dirs_exist_ok=True)
    (directory / name).write_bytes(damaged((tiny_llama_directory / name).read_bytes(), changes))
    holds_or_is_refused(
        lambda: inspect_source(ModelSource.find(str(directory), formats=checkpoint_formats(host)))
    )
    loaded = holds_or_is_refused(
        lambda: load(ModelSource.find(str(directory), formats=checkpoint_formats(host)))
    )
    if loaded is not None:
        assert all(torch.isfinite(weight).all() for weight in loaded.model.parameters())


@fewer
@given(
    key=st.sampled_from(
        [
            "model_type", "num_hidden_layers", "hidden_size", "vocab_size", "rope_parameters", "torch_dtype",
            "dtype", "quantization_config", "architectures", "auto_map", "tie_word_embeddings",
            "num_attention_heads",
        ]
    ),
    value=values,
)  # fmt: skip
def test_configs_with_another_value(
    key: str, value: Any, tiny_llama_directory: Path, tmp_path: Path, host: Host
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_llama_directory, directory, dirs_exist_ok=True)
    config = json.loads((tiny_llama_directory / "config.json").read_text()) | {key: value}
    (directory / "config.json").write_text(json.dumps(config, default=str))
    holds_or_is_refused(
        lambda: inspect_source(ModelSource.find(str(directory), formats=checkpoint_formats(host)))
    )


@few
@given(changes=damage)
def test_damaged_stores(changes: Any, tmp_path: Path) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    path = tmp_path / "evaluations.sqlite"
    with closing(EvaluationStore(path)) as store:
        store.open_game("g", {"a": "b"})
        store.add("g", np.eye(6, dtype=np.bool_), np.arange(6.0), 1.0)
    path.write_bytes(damaged(path.read_bytes(), changes))

    def reopened() -> None:
        with closing(EvaluationStore(path)) as store:
            store.open_game("g", {"a": "b"})
            store.lookup("g", np.eye(6, dtype=np.bool_))
            store.seconds_per_evaluation("g")
            store.measured("g")
            store.add("g", ~np.eye(6, dtype=np.bool_), np.arange(6.0), 1.0)

    holds_or_is_refused(reopened)


@few
@given(
    changes=damage,
    name=st.sampled_from(
        ["manifest.json", "contributions.json", "plan.json", "result.json", "comparison.json"]
    ),
)
def test_damaged_run_files(changes: Any, name: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    content = '{"format_version": 1, "status": "running", "phases": {"a": [1]}, "plan": null}'
    for other in ("manifest.json", "contributions.json", "plan.json", "result.json", "comparison.json"):
        (tmp_path / other).write_text(content)
    (tmp_path / name).write_bytes(damaged(content.encode(), changes))
    holds_or_is_refused(lambda: read_run(run))
    holds_or_is_refused(lambda: read_comparison(run.comparison))
    assert finished_earlier(Recipe(model="m"), tmp_path, run) is None
