"""Recipes: where options come from, which wins, and what is refused."""

import pytest

from shapcut.errors import InputError
from shapcut.methods import METHODS
from shapcut.recipe import Recipe, make_recipe


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
    with pytest.raises(InputError, match=r"^unknown key 'xyz': known: batch_size, budget, calibration"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, r"^samples 0: Input should be greater"),
        ({"sequence_length": 1}, r"^sequence-length 1: "),
        ({"budget": "many"}, r"^budget '?many'?: "),
        ({"preset": "papers"}, r"^unknown preset 'papers': did you mean 'paper'"),
        ({"granularity": "head"}, r"^granularity '?head'?: "),
        ({"dtype": "int8"}, r"^dtype '?int8'?: "),
        ({"then": "gptq"}, r"^then '?gptq'?: "),
        ({"then": ["a", 3]}, r"^then.1 3: "),
        ({"remove": 0}, r"^remove 0: at least one player must go"),
        ({"ratio": 1.0}, r"^ratio 1.0 is not between 0 and 1"),
        ({"ratio": float("nan")}, r"^ratio nan is not between 0 and 1"),
    ],
)
def test_wrong_values_name_the_option(options, message):
    with pytest.raises(InputError, match=message):
        make_recipe({"model": "m", **options})


def test_a_recipe_without_a_model(recipe_file):
    with pytest.raises(InputError, match=r"recipe.yaml: model is not given$"):
        make_recipe({}, recipe_file("seed: 1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a mapping"),
        ("- a\n- b\n", "is not a mapping"),
        ("1: 2\n", "is not a mapping"),
        ("a: [1\n", "is not YAML"),
        ("model: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_unusable_files(recipe_file, text, message):
    with pytest.raises(InputError, match=message) as error:
        make_recipe({}, recipe_file(text))
    assert "\n" not in str(error.value)


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
        ({}, "no target: give --remove N, --ratio R, --parameters N, --memory SIZE or --speedup S"),
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
