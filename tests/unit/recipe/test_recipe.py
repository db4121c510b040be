"""Recipes: where options come from, which wins, and what is refused."""

import re

import pytest

from shapcut.host.host import build_host
from shapcut.recipe.cache_limit import cache_limit
from shapcut.recipe.methods import METHODS
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.recipe.wording import accepted_values
from shapcut.support.errors import InputError
from shapcut.support.plain_yaml import load_plain_yaml


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_unknown_key_with_a_suggestion(recipe_file):
    with pytest.raises(InputError, match=r"unknown key 'sample': did you mean 'samples'\?") as error:
        make_recipe({}, recipe_file("model: m\nsample: 3\n"))
    assert "recipe.yaml" in str(error.value)
    with pytest.raises(InputError, match=r"^unknown key 'xyz': known: batch_size, budget, cache, cal"):
        make_recipe({"model": "m", "xyz": 1})


@pytest.mark.parametrize("text", ["model: m\nremove: 2\nratio: 0.1\n", "model: m\nratio: 0.1\nremove: 2\n"])
def test_two_targets_in_a_file(recipe_file, text):
    with pytest.raises(InputError, match=r"two targets at once: remove 2 and ratio 0.1; give one"):
        make_recipe({}, recipe_file(text))


def test_two_explicit_targets():
    with pytest.raises(InputError, match="two targets at once"):
        make_recipe({"model": "m", "remove": 2, "ratio": 0.1})


@pytest.mark.parametrize(
    ("explicit", "expected"), [({"remove": 3}, (3, None)), ({"ratio": 0.5}, (None, 0.5))]
)
@pytest.mark.parametrize("text", ["ratio: 0.2", "remove: 1"])
def test_an_explicit_target_replaces_the_files(recipe_file, explicit, expected, text):
    recipe = make_recipe(explicit, recipe_file(f"model: m\n{text}\n"))
    assert (recipe.remove, recipe.ratio) == expected


def test_explicit_wins_over_file_wins_over_preset_wins_over_default(recipe_file):
    file = recipe_file("model: m\npreset: paper\nsamples: 7\nseed: 5\nutility: kl\n")
    recipe = make_recipe({"seed": 9, "utility": "log-likelihood", "budget": None}, file)
    assert (recipe.seed, recipe.utility) == (9, "log-likelihood")
    assert recipe.samples == 7
    assert (recipe.estimator, recipe.selector) == ("paper", "ranking")
    assert recipe.budget == 500


def test_paper_preset():
    recipe = make_recipe({"model": "m", "preset": "paper"})
    assert (recipe.estimator, recipe.selector, recipe.utility) == ("paper", "ranking", "perplexity-ratio")
    assert (recipe.samples, recipe.sequence_length) == (10, 128)
    assert make_recipe({"model": "m"}).estimator == "surrogate"
    assert make_recipe({"model": "m", "preset": "paper", "estimator": "exact"}).estimator == "exact"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_preset(name):
    recipe = make_recipe({"model": "m", "preset": name})
    method = METHODS[name]
    assert (recipe.estimator, recipe.selector, recipe.utility) == (
        method.estimator,
        method.selector,
        method.utility,
    )


def test_yaml_round_trip(recipe_file):
    recipe = make_recipe(
        {
            "model": "on",
            "ratio": 1e-05,
            "preset": "paper",
            "then": ["gptq:bits=4", "yes"],
            "calibration": "a: b #c",
        }
    )
    assert make_recipe({}, recipe_file(recipe.to_yaml())) == recipe


SPEC = r"NAME, NAME:key=value,... or a mapping \{NAME: \{key: value\}\}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, r"^samples 0: give a whole number of at least 1$"),
        ({"sequence_length": 1}, r"^sequence-length 1: give a whole number of at least 2$"),
        ({"budget": "many"}, r"^budget many: give a whole number of at least 1$"),
        ({"budget": True}, r"^budget True: give a whole number of at least 1$"),
        ({"remove": [2, True]}, r"^remove \[2, True\]: give a whole number or a list of them$"),
        ({"parameters": "10Q"}, r"^parameters 10Q: give a whole number, with a unit or without \(100M\)"),
        ({"memory_budget": 0}, r"^memory-budget 0: give a whole number, with a unit or without \(250MiB\)$"),
        ({"nested": 1}, r"^nested 1: give true or false$"),
        ({"nested": "yes"}, r"^nested yes: give true or false$"),
        ({"model": 3}, r"^model 3: give text$"),
        ({"preset": "papers"}, r"^unknown preset 'papers': did you mean 'paper'"),
        ({"cache": "64MB"}, r"^cache 64MB: give a size and a number of tokens \(64MB@4096\)"),
        ({"cache": "0@10"}, r"^cache 0@10: give a size and a number of tokens"),
        ({"cache": "1MB@0"}, r"^cache 1MB@0: give a size and a number of tokens"),
        ({"cache": 64}, r"^cache 64: give a size and a number of tokens"),
        ({"cache": "1MB@4,1MB@4"}, r"^cache \('1MB@4', '1MB@4'\): name different amounts"),
        ({"form": "sibling"}, r"^form sibling: give one of plain, remote-code$"),
        ({"granularity": "head"}, r"^granularity head: give one of block, sublayer, expert, mixed$"),
        ({"dtype": "int8"}, r"^dtype int8: give one of auto, float32, bfloat16, float16$"),
        ({"estimator": 3}, rf"^estimator 3: give {SPEC}$"),
        (
            {"estimator": "x" * 99, "seed": "y" * 99},
            r"^seed y{60}\.\.\.: give a whole number of at least 0$",
        ),
        ({"then": "gptq"}, rf"^then gptq: give a list of which each item is {SPEC}$"),
        ({"then": ["a", 3]}, rf"^then.1 3: give {SPEC}$"),
        ({"then": [{"a": None, "b": None}]}, r"^then.0: one name with its options is wanted"),
        ({"then": ["a", {"gptq": {"bits": None}}]}, r"^then.1: gptq.bits is neither text, number"),
        ({"then": [{"gptq": {"group": "1,2"}}]}, r"^then.0: gptq.group has a comma"),
        ({"then": [{"gptq": 4}]}, r"^then.0: the options of 'gptq' are no mapping"),
        ({"remove": 0}, r"^remove 0: at least one player must go"),
        ({"ratio": 1.0}, r"^ratio 1.0 is not between 0 and 1; 0.25 removes a quarter$"),
        ({"ratio": float("nan")}, r"^ratio nan is not between 0 and 1"),
    ],
)
def test_wrong_values_name_the_option(options, message):
    with pytest.raises(InputError, match=message):
        make_recipe({"model": "m", **options})


def test_a_wrong_value_of_a_file_names_the_file_and_its_key(recipe_file):
    with pytest.raises(InputError) as error:
        make_recipe({"budget": 9}, recipe_file("model: m\nsequence_length: many\n"))
    assert re.fullmatch(
        r"recipe /\S+/recipe.yaml: sequence_length 'many': give a whole number of at least 2",
        str(error.value),
    )


def test_a_wrong_option_does_not_blame_the_file(recipe_file):
    with pytest.raises(InputError, match=r"^budget 0: "):
        make_recipe({"budget": 0}, recipe_file("model: m\nbudget: 3\n"))


def test_a_recipe_without_a_model(recipe_file):
    with pytest.raises(InputError, match=r"recipe.yaml: model is not given$"):
        make_recipe({}, recipe_file("seed: 1\n"))


def test_what_has_options_as_a_mapping(recipe_file):
    text = """
model: m
estimator: {paper: {sizes: [60, 56], surrogate_masks: 150000}}
then:
  - compensate
  - gptq: {bits: 4, sym: true}
  - heal:
"""
    recipe = make_recipe({}, recipe_file(text))
    assert recipe.estimator == "paper:sizes=60+56,surrogate_masks=150000"
    assert recipe.then == ("compensate", "gptq:bits=4,sym=true", "heal")
    assert make_recipe({}, recipe_file(recipe.to_yaml())) == recipe
    estimator = build_host().estimators.create(recipe.estimator)
    assert (estimator.sampler.sizes, estimator.surrogate_masks) == ((60, 56), 150000)


def test_on_and_off_are_words_and_true_is_none(recipe_file):
    recipe = make_recipe({}, recipe_file("model: m\ncompile: on\noffload: off\nnested: true\n"))
    assert (recipe.compile, recipe.offload, recipe.nested) == ("on", "off", True)
    with pytest.raises(InputError, match="nested 'yes': give true or false"):
        make_recipe({}, recipe_file("model: m\nnested: yes\n"))


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a mapping"),
        ("- a\n- b\n", "is not a mapping"),
        ("1: 2\n", "is not a mapping"),
        ("just text", "is not a mapping"),
        ("a: [1\n", "is not YAML"),
        ("model: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("model: m\n---\nmodel: n\n", "is not YAML"),
        ("model: m\nseed: 1\nmodel: n\n", r"line 3, column 1: the key 'model' is there twice"),
        ("model: m\nthen: [{gptq: {bits: 4, bits: 3}}]\n", r"line 2, .*: the key 'bits' is there twice"),
        ("model: &name m\n", r"line 1, column 8: the anchor or alias 'name' is not taken here"),
        (f"a0: &a0 [ha]\n{LAUGHS}", "the anchor or alias 'a0' is not taken here"),
        ("model: " + "[" * 20000, "is not YAML"),
        ("model: !!set {a, b}\n", "the tag .* is not taken here"),
        ("a: \x00\n", "is not YAML"),
        ("#" * (2 << 20), "more than 1,048,576 bytes"),
    ],
)
def test_unusable_files(recipe_file, text, message):
    with pytest.raises(InputError, match=message) as error:
        make_recipe({}, recipe_file(text))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="cannot read the recipe"):
        make_recipe({}, tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot read the recipe"):
        make_recipe({}, tmp_path / "binary")


@pytest.mark.parametrize(
    ("target", "n_players", "expected"),
    [({"remove": 3}, 4, 3), ({"ratio": 0.2}, 30, 6), ({"ratio": 0.26}, 10, 3), ({"ratio": 0.9}, 10, 9)],
)
def test_number_to_remove(target, n_players, expected):
    assert Recipe(model="m", **target).n_remove(n_players) == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            {},
            "no target: give --remove N, --ratio R, --parameters N, --memory SIZE, --cache SIZE@N or",
        ),
        ({"remove": 10}, "--remove 10: of the model's 10 players 1 to 9 can be removed"),
        ({"ratio": 0.01}, "--ratio 0.01: of the model's 10 players 1 to 9 can be removed"),
        ({"ratio": 0.99}, "--ratio 0.99: "),
    ],
)
def test_targets_that_leave_nothing_to_do(target, message):
    with pytest.raises(InputError, match=message):
        Recipe(model="m", **target).n_remove(10)


def test_a_recipe_cannot_be_changed():
    recipe = make_recipe({"model": "m"})
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


@pytest.mark.parametrize(
    ("line", "message"), [("budget: 1:30", "budget '1:30'"), ("remove: 0x10", "remove '0x10'")]
)
def test_what_yaml_1_1_took_for_numbers_is_text(recipe_file, line, message):
    with pytest.raises(InputError, match=message):
        make_recipe({}, recipe_file(f"model: m\n{line}\n"))


def test_a_date_is_text():
    assert load_plain_yaml("model: 2024-13-45")["model"] == "2024-13-45"
    assert load_plain_yaml("[017, 1e-3, -4, on, 0.5]") == ["017", 1e-3, -4, "on", 0.5]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "a whole number of at least 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "a number of more than 0 and at most 1"),
        ({"type": "string", "maxLength": 60}, "text of at most 60 characters"),
        ({"type": "boolean"}, "true or false"),
    ],
)
def test_accepted_values_name_the_bounds(schema: dict[str, object], words: str) -> None:
    assert accepted_values(schema) == words


def test_a_limit_of_the_cache():
    recipe = make_recipe({"model": "m", "cache": "64 MB @ 4096, 0.5GiB@32768"})
    assert recipe.target_labels() == ["cache-64MB@4096", "cache-0.5GiB@32768"]
    assert recipe.cache_lengths == (4096, 32768)
    assert cache_limit("64MB@4096") == (64_000_000, 4096)
    assert cache_limit("1KiB@7") == (1024, 7)
    assert make_recipe({"model": "m", "remove": 2}).cache_lengths == ()


def test_a_plan_of_another_target_replaces_the_cache(recipe_file):
    file = recipe_file("model: m\ncache: 1MB@100\n")
    assert make_recipe({}, file).cache == "1MB@100"
    assert make_recipe({"remove": 2}, file).cache is None
