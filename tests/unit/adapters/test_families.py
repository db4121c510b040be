"""How config fields follow the layers that stay, and which cuts are refused."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from shapcut_adapters.transformers.families.conventions import conventional_fields
from shapcut_adapters.transformers.families.rules import (
    AtLeast,
    Condition,
    Cut,
    CyclicOrder,
    EveryNth,
    IndexKeyed,
    IndexList,
    IndexRange,
    LastKind,
    NeededFirst,
    NeededKind,
    NeverExact,
    Periodic,
    PerLayerList,
    Pinned,
    PrefixCount,
    ScaledByDepth,
    SuffixCount,
)

DEPTH = 7


def cut(*kept, depth=DEPTH):
    return Cut(depth, kept)


def all_cuts(depth):
    for size in range(1, depth):
        for kept in combinations(range(depth), size):
            yield Cut(depth, kept)


def edited(rule, config, a_cut):
    return SimpleNamespace(**{**vars(config), **rule.edited(config, a_cut)})


def test_a_cut_knows_what_goes_and_what_is_renumbered():
    assert cut(0, 2, 6).absent == (1, 3, 4, 5)
    assert cut(0, 2, 6).of("abcdefg") == ["a", "c", "g"]
    assert cut(0, 2, 6).renumbered([2, 3, 6]) == [1, 2]


def test_lists_and_counts():
    config = SimpleNamespace(
        types=list("abcdefg"), pattern=["x", "y"], listed=[1, 4, 6], first=3, last=2, scale=2.0, none=None
    )
    kept = cut(1, 2, 4, 5)
    assert PerLayerList("types").edited(config, kept) == {"types": ["b", "c", "e", "f"]}
    assert PerLayerList("pattern", "types", (("b", "B"),)).edited(config, kept) == {
        "pattern": ["B", "c", "e", "f"]
    }
    assert PerLayerList("none").edited(config, kept) == {}
    assert IndexList("listed").edited(config, kept) == {"listed": [0, 2]}
    assert PrefixCount("first").edited(config, kept) == {"first": 2}
    assert SuffixCount("last").edited(config, kept) == {"last": 1}
    assert PrefixCount("none").edited(config, kept) == {}


def test_a_factor_divided_by_the_root_of_the_depth_gives_what_it_gave():
    config = SimpleNamespace(scale=1.4)
    new = ScaledByDepth("scale").edited(config, cut(0, 3, 4))["scale"]
    assert new / 3**0.5 == pytest.approx(1.4 / DEPTH**0.5)


def test_entries_by_index_are_renumbered_whether_their_keys_are_text_or_numbers():
    config = SimpleNamespace(to_dict=lambda: {"by_layer": {"01": "b", "4": "e", 6: "g"}})
    assert IndexKeyed("by_layer").edited(config, cut(1, 2, 6)) == {"by_layer": {0: "b", 2: "g"}}


@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_period_and_offset_say_the_same_or_object(period):
    config = SimpleNamespace(period=period, offset=period - 1)
    rule = Periodic("period", "offset")
    allowed = 0
    for each in all_cuts(DEPTH):
        wanted = [old % period == period - 1 for old in each.kept]
        sayable = any(
            [new % p == o for new in range(len(wanted))] == wanted
            for p in range(1, DEPTH + 2)
            for o in range(p)
        )
        assert (not rule.objection(config, each)) == sayable
        if sayable:
            new = edited(rule, config, each)
            assert [i % new.period == new.offset for i in range(len(wanted))] == wanted
            assert 0 <= new.offset < new.period
            allowed += 1
    assert allowed


def range_of(config, depth):
    inside = range(config.first, config.last + 1)
    return [i in inside and (i + 1) % config.step == 0 for i in range(depth)]


@pytest.mark.parametrize(("first", "last", "step"), [(1, 5, 1), (0, 6, 2), (2, 6, 3), (0, 6, 1)])
def test_a_range_of_indices_says_the_same_or_objects(first, last, step):
    config = SimpleNamespace(first=first, last=last, step=step)
    rule = IndexRange("first", "last", "step")
    kinds, refused = range_of(config, DEPTH), 0
    for each in all_cuts(DEPTH):
        n_kept = len(each.kept)
        wanted = each.of(kinds)
        sayable = any(
            range_of(SimpleNamespace(first=f, last=n, step=s), n_kept) == wanted
            for f in range(n_kept + 1)
            for n in range(n_kept + 1)
            for s in range(1, n_kept + 2)
        )
        assert (not rule.objection(config, each)) == sayable
        if sayable:
            assert range_of(edited(rule, config, each), n_kept) == wanted
        refused += not sayable
    assert refused or step == 1


@pytest.mark.parametrize(("step", "listed"), [(2, [1]), (1, [0, 3]), (3, None)])
def test_every_nth_becomes_a_list_of_exceptions(step, listed):
    config = SimpleNamespace(step=step, listed=listed)
    kinds = [(i + 1) % step == 0 and i not in (listed or []) for i in range(DEPTH)]
    for each in all_cuts(DEPTH):
        new = edited(EveryNth("step", "listed"), config, each)
        assert new.step == 1
        assert [i not in new.listed for i in range(len(each.kept))] == each.of(kinds)


def test_turns_at_shared_modules_must_not_shift_and_each_module_must_serve():
    kinds = ["m", "h", "h", "m", "h", "h", "m"]
    rule = CyclicOrder("modules", "kinds", "h")
    config = SimpleNamespace(modules=2, kinds=kinds)
    assert not rule.objection(config, cut(0, 1, 2, 4, 5))
    assert not rule.objection(config, cut(1, 2))
    assert not rule.objection(config, cut(1, 5, 6))  # turns 0 and 3 of 2 modules: first, second
    assert "shift" in rule.objection(config, cut(0, 2, 4, 5))
    assert "1 h layers" in rule.objection(config, cut(0, 1, 3))


def test_enough_layers_of_a_kind_must_stay_if_there_were_enough():
    rule = AtLeast(2, ("a",), "kinds", "why")
    config = SimpleNamespace(kinds=list("aababbb"))
    assert not rule.objection(config, cut(0, 3))
    assert rule.objection(config, cut(0, 4)) == "1 a layers would stay: why"
    assert not rule.objection(SimpleNamespace(kinds=list("abbbbbb")), cut(0, 1))


def test_the_last_layer_must_be_of_the_kind_that_the_config_makes_it():
    rule = LastKind("f", "kinds")
    config = SimpleNamespace(kinds=list("sfssfsf"))
    assert not rule.objection(config, cut(0, 4))
    assert "layer 5" in rule.objection(config, cut(4, 5))


def test_layers_that_are_pinned_or_needed():
    config = SimpleNamespace(kinds=list("sufsufu"), setting=3)
    assert Pinned((0, -1), "why").pinned(config, DEPTH) == {0: "why", 6: "why"}
    assert Pinned((0,), "why").needed(config, DEPTH) == {}
    assert NeededKind("f", "kinds", "why").needed(config, DEPTH) == {2: "why", 5: "why"}
    assert NeededKind("f", "kinds", "why").pinned(config, DEPTH) == {2: "why", 5: "why"}
    assert NeededFirst("u", "kinds", "why").pinned(config, DEPTH) == {0: "why"}
    assert NeededFirst("x", "kinds", "why").pinned(config, DEPTH) == {}
    assert set(NeverExact("why").pinned(config, DEPTH)) == set(range(DEPTH))
    assert not Condition("setting", 3, "why").pinned(config, DEPTH)
    assert Condition("setting", 1, "why").pinned(config, DEPTH)[0] == "why (setting=3)"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"first_k_dense_replace": 4}, {"first_k_dense_replace": 2}),
        ({"max_window_layers": DEPTH}, {"max_window_layers": 4}),
        ({"max_window_layers": DEPTH + 1}, {}),
        ({"hybrid_override_pattern": "M-M*M-E"}, {"hybrid_override_pattern": "M*ME"}),
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1, 0]}, {"moe_layer_freq": [0, 0, 1, 0]}),
        ({"moe_layer_freq": 1}, {}),
        ({"moe_layers_enum": "1,3,4,6"}, {"moe_layers_enum": "1,2,3"}),
        ({"dense_layers": [1, 3, 4, 6]}, {"dense_layers": [1, 2, 3]}),
        ({"full_attn_layers": [2, 5, 7]}, {"full_attn_layers": [3, 4]}),
        ({"nested": {"head_dim": 16, "kda_layers": [4]}}, {"nested": {"head_dim": 16, "kda_layers": [2]}}),
        ({"n_layers": DEPTH}, {"n_layers": 4}),
        ({"long_factor": [1.0] * DEPTH, "eos_token_id": [1, 2], "hidden_act": "squared"}, {}),
    ],
)
def test_fields_that_only_other_engines_read_follow_by_convention(fields, expected):
    assert conventional_fields(SimpleNamespace(**fields), cut(0, 3, 4, 6)) == expected
