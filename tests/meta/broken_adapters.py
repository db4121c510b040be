"""Adapters that each break one promise of the contract."""

import copy
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from weakref import WeakSet

import torch
from torch import nn

from shapcut.game.coalitions import Player
from shapcut.models.adapter import Adapter
from shapcut.models.layer_stack import LayerStack, Unembedding
from shapcut.support.errors import UnsupportedModelError
from shapcut_adapters.shared.forwards import replaced_blocks, replaced_forward
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.decoder import find_decoder
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.removal import remove_blocks
from shapcut_adapters.transformers.tiny_models import tiny_model

_FAMILY = {family.model_type: family for family in FAMILIES}


def small(model_type, **tiny):
    """A family whose example has four narrow layers."""
    return replace(_FAMILY[model_type], tiny={**_FAMILY[model_type].tiny, "num_hidden_layers": 4, **tiny})


class Sound(HFDecoderAdapter):
    """Breaks nothing; the others differ from it."""

    family = small("llama", hidden_size=16)

    def example(self, seed):
        return tiny_model(self.family, seed)

    def examples(self):
        return {"tiny": self.example}

    def granularities(self, model):
        return ("block",)


def blocks_of(model):
    return model.model.layers


def absent_of(model, present):
    return [block for index, block in enumerate(blocks_of(model)) if index not in present]


class WithoutBlocks(Sound):
    """Lets absent blocks compute something that `skip` chooses."""

    def skip(self, block, hidden_states, **kwargs):
        return hidden_states

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            replaced = {block: vars(block)["forward"] for block in absent_of(model, present)}
            for block in replaced:
                block.forward = lambda hidden_states, b=block, **kwargs: self.skip(b, hidden_states, **kwargs)
            try:
                yield
            finally:
                for block, forward in replaced.items():
                    block.forward = forward


class ZeroesTheState(WithoutBlocks):
    def skip(self, block, hidden_states, **kwargs):
        return torch.zeros_like(hidden_states)


class MultipliesByZero(WithoutBlocks):
    def skip(self, block, hidden_states, **kwargs):
        return hidden_states + 0 * type(block).forward(block, hidden_states, **kwargs)


class ScalesAbsentBlocks(WithoutBlocks):
    def skip(self, block, hidden_states, **kwargs):
        return 1.01 * hidden_states


class NeverRestores(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            left = {block: vars(block)["forward"] for block in absent_of(model, present)}
            yield
        for block, forward in left.items():
            block.forward = forward


class RestoresUnlessRaised(Sound):
    def __init__(self):
        super().__init__()
        self.open = []

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        context = super().bypass(model, present, granularity)
        self.open.append(context)  # a context that nobody holds would be closed with its last reference
        context.__enter__()
        yield
        context.__exit__(None, None, None)


class UndoesOuterContexts(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            yield
            for block in blocks_of(model):
                if "forward" in vars(block):
                    block.forward = type(block).forward.__get__(block)


class LeavesAHook(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            blocks_of(model)[0].register_forward_hook(lambda *_: None)
            yield


class OverwritesWeights(Sound):
    """Zeroes what absent blocks add to the residual stream and copies it back."""

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, range(len(blocks_of(model))), granularity):
            if not set(present) <= set(range(len(blocks_of(model)))):
                raise IndexError(present)
            outputs = [
                weight
                for block in absent_of(model, present)
                for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight)
            ]
            saved = [weight.detach().clone() for weight in outputs]
            with torch.no_grad():
                for weight in outputs:
                    weight.zero_()
                try:
                    yield
                finally:
                    for weight, values in zip(outputs, saved, strict=True):
                        weight.copy_(values)


class IgnoresAbsent(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            pass
        yield


class BypassesTheNextBlock(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        n_players = len(blocks_of(model))
        shifted = {
            index if index >= n_players else (index + 1) % n_players for index in present if index >= 0
        }
        with super().bypass(model, shifted | {index for index in present if index < 0}, granularity):
            yield


class DisturbsPresentBlocks(Sound):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        with super().bypass(model, present, granularity):
            handle = model.lm_head.register_forward_hook(lambda _m, _i, out: out * (1 + 2**-22))
            try:
                yield
            finally:
                handle.remove()


class NeedsAnEarlierForwardPass(Sound):
    def __init__(self):
        super().__init__()
        self.seen = WeakSet()

    def logits(self, model, input_ids):
        found = super().logits(model, input_ids)
        self.seen.add(model)
        return found

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        everyone = range(len(blocks_of(model)))
        known = model in self.seen or not set(present) <= set(everyone)
        with super().bypass(model, present if known else everyone, granularity):
            yield


class BrokenStack(LayerStack):
    """Passes everything on to a sound stack."""

    def __init__(self, sound):
        self.sound = sound
        self.batch_size = sound.batch_size

    def prelude(self, input_ids):
        return self.sound.prelude(input_ids)

    def step(self, index, state):
        return self.sound.step(index, state)

    def readout(self, state):
        return self.sound.readout(state)

    def unembedding(self):
        return self.sound.unembedding()

    def features(self, state):
        return self.sound.features(state)


class OverwritesItsInput(BrokenStack):
    def step(self, index, state):
        following = super().step(index, state)
        state[0].zero_()
        return following


class StepsInFloat32(BrokenStack):
    def step(self, index, state):
        return tuple(tensor.float() for tensor in super().step(index, state))


class StepsOfTheNextLayer(BrokenStack):
    def step(self, index, state):
        return super().step((index + 1) % 4, state)


class ForgetsTheLength(BrokenStack):
    """Records positions once, for the first length that it sees."""

    def prelude(self, input_ids):
        if not hasattr(self, "length"):
            self.length = input_ids.shape[1]
        state = super().prelude(input_ids)
        return tuple(torch.nn.functional.pad(t, (0, 0, 0, self.length - t.shape[1])) for t in state)


class ScaledReadout(BrokenStack):
    def readout(self, state):
        return 1.01 * super().readout(state)


class ForgetsLogitScaling(BrokenStack):
    def unembedding(self):
        head = self.sound._decoder.model.lm_head
        return Unembedding(head.weight, head.bias)


class WithStack(Sound):
    """Wraps the stack in a broken one."""

    broken = BrokenStack

    def stack(self, model, granularity="block"):
        return self.broken(super().stack(model, granularity))


class WithStackOverwritingItsInput(WithStack):
    broken = OverwritesItsInput


class WithStackInFloat32(WithStack):
    broken = StepsInFloat32


class WithStackOfTheNextLayer(WithStack):
    broken = StepsOfTheNextLayer


class WithStackOfOneLength(WithStack):
    broken = ForgetsTheLength


class WithScaledReadout(WithStack):
    broken = ScaledReadout


class WithoutLogitScaling(WithStack):
    family = small("granite")
    broken = ForgetsLogitScaling


class RemovesTheNextBlock(Sound):
    def remove(self, model, absent, granularity="block"):
        n_players = len(blocks_of(model))
        shifted = {(i + 1) % n_players if 0 <= i < n_players else i for i in absent}
        return super().remove(model, shifted, granularity)


class KeepsAFieldOfTheOldDepth(Sound):
    """Shortens what transformers reads, and forgets a list that only other engines read."""

    family = small("llama", hidden_size=16, hybrid_layer_pattern=[0, 1, 1, 0])

    def remove(self, model, absent, granularity="block"):
        pattern = model.config.hybrid_layer_pattern
        removed = super().remove(model, absent, granularity)
        removed.config.hybrid_layer_pattern = pattern
        return removed


class KeepsOldLayerIndices(Sound):
    def remove(self, model, absent, granularity="block"):
        old = [
            layer.self_attn.layer_idx for index, layer in enumerate(blocks_of(model)) if index not in absent
        ]
        removed = super().remove(model, absent, granularity)
        for index, layer in zip(old, blocks_of(model), strict=True):
            layer.self_attn.layer_idx = index
        return removed


class KeepsTheStartOfConfigLists(Sound):
    family = small(
        "gemma3_text",
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )

    def remove(self, model, absent, granularity="block"):
        old = list(model.config.layer_types)
        removed = super().remove(model, absent, granularity)
        removed.config.layer_types = old[: len(blocks_of(removed))]
        return removed


class SavesTheOldDepth(Sound):
    def save(self, model, directory):
        super().save(model, directory)
        path = directory / "config.json"
        kept = len(blocks_of(model))
        path.write_text(path.read_text().replace(f'_hidden_layers": {kept}', '_hidden_layers": 4'))


class SavesInBfloat16(Sound):
    def save(self, model, directory):
        super().save(copy.deepcopy(model).bfloat16(), directory)


class RemovesIntoFloat32(Sound):
    def remove(self, model, absent, granularity="block"):
        return super().remove(model, absent, granularity).float()


class RemembersOriginalIndices(Sound):
    """Takes later indices for those of the model as it was loaded."""

    def remove(self, model, absent, granularity="block"):
        gone = getattr(model, "gone", ())
        now = {index - sum(earlier < index for earlier in gone) for index in absent}
        removed = super().remove(model, now, granularity)
        removed.gone = (*gone, *absent)
        return removed


class CountsParametersTwice(Sound):
    def players(self, model, granularity="block"):
        found = super().players(model, granularity)
        return tuple(replace(player, parameters=2 * player.parameters) for player in found)


class NumbersPlayersFromOne(Sound):
    def players(self, model, granularity="block"):
        return tuple(
            replace(player, index=player.index + 1) for player in super().players(model, granularity)
        )


class ForgetsAProjection(Sound):
    def output_projections(self, model, player):
        return super().output_projections(model, player)[:1]


class CountsFromTheEnd(Sound):
    """Takes -1 for the last block, as a list does."""

    def remove(self, model, absent, granularity="block"):
        n_players = len(blocks_of(model))
        return super().remove(model, {i + n_players if i < 0 else i for i in absent}, granularity)


class TouchesBeforeItRaises(Sound):
    def remove(self, model, absent, granularity="block"):
        model.config.use_cache = max(absent) < len(blocks_of(model))
        return super().remove(model, absent, granularity)


class RemovesAtMostTwo(Sound):
    """Right for one and two players, which is as far as a hasty author looks."""

    def remove(self, model, absent, granularity="block"):
        first_two = sorted(absent)[:2]
        in_range = set(absent) < set(range(len(blocks_of(model))))
        return super().remove(model, first_two if in_range else absent, granularity)


class RemovesWhatItRefuses(Sound):
    def can_remove(self, model, absent, granularity="block"):
        refused = super().can_remove(model, absent, granularity)
        return refused or ("the first block stays" if 0 in absent else None)

    def remove(self, model, absent, granularity="block"):
        if set(absent) < set(range(len(blocks_of(model)))):
            remove_blocks(
                find_decoder(model),
                Cut(len(blocks_of(model)), tuple(sorted(set(range(len(blocks_of(model)))) - set(absent)))),
            )
            return model
        return super().remove(model, absent, granularity)


class TouchesBeforeItRefuses(Sound):
    def remove(self, model, absent, granularity="block"):
        if len(absent) == len(blocks_of(model)):
            model.config.use_cache = False
        return super().remove(model, absent, granularity)


class GivesNoReason(Sound):
    """Keeps the last block, and does not say why."""

    def players(self, model, granularity="block"):
        found = super().players(model, granularity)
        return (*found[:-1], replace(found[-1], removable=False))


class ListsAnUnremovablePlayerThatItRemoves(GivesNoReason):
    def players(self, model, granularity="block"):
        found = super().players(model, granularity)
        return (*found[:-1], replace(found[-1], reason="the last block stays"))

    def can_remove(self, model, absent, granularity="block"):
        present = set(range(len(blocks_of(model)))) - checked_indices(absent, len(blocks_of(model)))
        return None if present else "one block must stay"


class RefusesEverything(Sound):
    """Says that players can be removed and then objects to every set."""

    def can_remove(self, model, absent, granularity="block"):
        return super().can_remove(model, absent, granularity) or "not today"


FIXED_DEPTH = "this architecture has a fixed depth"


class OnlyBypasses(Sound):
    """Breaks nothing: says of every player that it cannot be removed."""

    def players(self, model, granularity="block"):
        return tuple(
            replace(player, removable=False, reason=FIXED_DEPTH)
            for player in super().players(model, granularity)
        )

    def can_remove(self, model, absent, granularity="block"):
        return super().can_remove(model, absent, granularity) or (FIXED_DEPTH if absent else None)


class DeclaresACacheFaultInVain(Sound):
    def cache_differs(self, model):
        return "said to forget the first token"


class DeclaresItsCacheFault(Sound):
    """Breaks nothing that it does not declare."""

    def generate(self, model, input_ids, new_tokens, *, use_cache):
        generated = super().generate(model, input_ids, new_tokens, use_cache=use_cache)
        return torch.cat((generated[:, :-1], generated[:, -1:] + int(use_cache)), dim=1)

    def cache_differs(self, model):
        return "the last token is one too high"


class KeepsOldIndicesWhereTheCacheIsAtFault(DeclaresItsCacheFault, KeepsOldLayerIndices):
    """What is declared of the whole model is no excuse for what removal breaks."""


class HasAnUndeclaredCacheFault(DeclaresItsCacheFault):
    def cache_differs(self, model):
        return ""


class Sublayers(Sound):
    """Breaks nothing: also has the two halves of a layer as players, which it cannot remove."""

    def granularities(self, model):
        return ("block", "sublayer")

    def players(self, model, granularity="block"):
        if granularity != "sublayer":
            return super().players(model, granularity)
        return tuple(
            Player(
                2 * index + half,
                f"model.layers.{index}.{name}",
                kind,
                parameters,
                removable=False,
                reason="halves stay",
            )
            for index, layer in enumerate(blocks_of(model))
            for half, (name, kind) in enumerate((("self_attn", "attention"), ("mlp", "mlp")))
            for parameters in [sum(weight.numel() for weight in layer.get_submodule(name).parameters())]
        )

    def checkpoint_forms(self, model, absent, granularity="block"):
        return () if granularity == "sublayer" else super().checkpoint_forms(model, absent, granularity)

    def remove_as(self, model, absent, granularity, form):
        if granularity == "sublayer":
            raise UnsupportedModelError("halves stay")
        return super().remove_as(model, absent, granularity, form)

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        if granularity != "sublayer":
            with super().bypass(model, present, granularity):
                yield
            return
        players = self.players(model, granularity)
        checked_indices(present, len(players))
        with (
            super().bypass(model, range(len(blocks_of(model)))),
            replaced_blocks(
                (model.get_submodule(player.name), self.nothing(player.kind))
                for player in players
                if player.index not in present
            ),
        ):
            yield

    def player_parameters(self, model, player):
        return Adapter.player_parameters(self, model, player)

    def nothing(self, kind):
        def zero(hidden_states, **_kwargs):
            return torch.zeros_like(hidden_states)

        return zero if kind == "mlp" else lambda hidden_states, **kwargs: (zero(hidden_states), None)

    def stack(self, model, granularity="block"):
        return super().stack(model, granularity) if granularity == "block" else None

    def can_remove(self, model, absent, granularity="block"):
        return super().can_remove(model, absent, granularity) if granularity == "block" else "halves stay"

    def remove(self, model, absent, granularity="block"):
        if granularity == "sublayer":
            checked_indices(absent, len(self.players(model, granularity)))
            raise UnsupportedModelError("halves stay")
        return super().remove(model, absent, granularity)


class IgnoresAbsentHalves(Sublayers):
    @contextmanager
    def bypass(self, model, present, granularity="block"):
        everyone = range(len(self.players(model, granularity))) if granularity == "sublayer" else ()
        with super().bypass(model, {*present, *everyone}, granularity):
            yield


class ExpertPlayers(Sound):
    """Breaks nothing: its blocks are mixtures of experts."""

    family = small("qwen3_moe", hidden_size=16, mlp_only_layers=[1])

    def granularities(self, model):
        return ("block", "expert")


class SilencesExperts(ExpertPlayers):
    """Chooses among all experts and drops what absent ones give."""

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        if granularity != "expert":
            with super().bypass(model, present, granularity):
                yield
            return
        players = self.players(model, granularity)
        running = checked_indices(present, len(players))
        with super().bypass(model, range(len(players)), granularity), ExitStack() as stack:
            for experts in {player.name.rpartition(".")[0] for player in players}:
                numbers = [player for player in players if player.name.rpartition(".")[0] == experts]
                absent = [number for number, player in enumerate(numbers) if player.index not in running]
                module = model.get_submodule(experts)
                stack.enter_context(replaced_forward(module, self.silenced(module, absent)))
            yield

    def silenced(self, experts, absent):
        forward = vars(experts).get("forward") or type(experts).forward.__get__(experts)

        def run(hidden_states, indices, weights):
            for expert in absent:
                weights = weights.masked_fill(indices == expert, 0.0)
            return forward(hidden_states, indices, weights)

        return run


class WithStackOfAllExperts(ExpertPlayers):
    def stack(self, model, granularity="block"):
        stack = super().stack(model, granularity)
        if granularity == "expert":
            stack.run = lambda index, present, state: stack.step(index, state)
        return stack


class WithExpertsOverwritingTheState(ExpertPlayers):
    """Only where an expert is absent."""

    def stack(self, model, granularity="block"):
        stack = super().stack(model, granularity)
        run = stack.run

        def overwriting(index, present, state):
            following = run(index, present, state)
            if not all(present):
                state[0].zero_()
            return following

        if granularity == "expert":
            stack.run = overwriting
        return stack


class KeepsTheFirstExperts(ExpertPlayers):
    """Removes the right number of experts from each layer, but always the last ones."""

    def remove(self, model, absent, granularity="block"):
        if granularity == "expert" and self.can_remove(model, absent, granularity) is None:
            players = self.players(model, granularity)
            groups = sorted({player.group for player in players})
            each = len(absent) // len(groups)
            members = [[player.index for player in players if player.group == group] for group in groups]
            absent = {index for group in members for index in group[len(group) - each :]}
        return super().remove(model, absent, granularity)


class KeepsTheOldCountOfExperts(ExpertPlayers):
    """Cuts the weights and forgets the config."""

    def remove(self, model, absent, granularity="block"):
        count = model.config.num_experts
        removed = super().remove(model, absent, granularity)
        if granularity == "expert":
            removed.config.num_experts = count
        return removed


class CountsNoRouterRows(ExpertPlayers):
    def players(self, model, granularity="block"):
        found = super().players(model, granularity)
        rows = model.config.hidden_size if granularity == "expert" else 0
        return tuple(replace(player, parameters=player.parameters - rows) for player in found)


class MixedPlayers(Sound):
    """Breaks nothing: attention, MLP and experts of each block are players."""

    family = small("qwen3_moe", hidden_size=16)

    def granularities(self, model):
        return ("block", "mixed")


class CountsExpertsWithTheirPart(MixedPlayers):
    """An MLP counts its experts, which count themselves, too."""

    def players(self, model, granularity="block"):
        found = super().players(model, granularity)
        inside = {
            part.name: sum(each.parameters for each in found if each.name.startswith(f"{part.name}."))
            for part in found
        }
        return tuple(replace(each, parameters=each.parameters + inside[each.name]) for each in found)


class CutsNoExpertsBesideParts(MixedPlayers):
    """Where a part goes, all experts of the other layers stay."""

    def remove(self, model, absent, granularity="block"):
        players = self.players(model, granularity)
        parts = {each for each in absent if 0 <= each < len(players) and players[each].group is None}
        if granularity == "mixed" and parts and self.can_remove(model, absent, granularity) is None:
            names = tuple(f"{players[part].name}." for part in parts)
            absent = {each for each in absent if each in parts or players[each].name.startswith(names)}
        return super().remove(model, absent, granularity)


class SublayerPlayers(Sound):
    """Breaks nothing: attention and MLP of each block, whose projections have a bias, are players."""

    family = small("llama", hidden_size=16, attention_bias=True, mlp_bias=True)

    def granularities(self, model):
        return ("block", "sublayer")


class LeavesTheBias(SublayerPlayers):
    """Multiplies by zero what goes into the output projection of an absent attention."""

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        halves = range(0, len(self.players(model, granularity)), 2) if granularity == "sublayer" else ()
        absent = [half for half in halves if half not in present]
        projections = [blocks_of(model)[half // 2].self_attn.o_proj for half in absent]
        with (
            super().bypass(model, {*present, *absent}, granularity),
            replaced_blocks((each, self.bias_alone(each)) for each in projections),
        ):
            yield

    def bias_alone(self, projection):
        return lambda given: type(projection).forward(projection, torch.zeros_like(given))


class SwapsHalves(SublayerPlayers):
    """Runs the MLP where the attention of its block is present, and the other way round."""

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        swapped = {half ^ 1 for half in present} if granularity == "sublayer" else present
        with super().bypass(model, swapped, granularity):
            yield

    def stack(self, model, granularity="block"):
        stack = super().stack(model, granularity)
        if granularity == "sublayer":
            run = stack.run
            stack.run = lambda index, present, state: run(index, present[::-1], state)
        return stack


class AddsAbsentMlps(SublayerPlayers):
    """Its stack runs both halves of a block as soon as its attention runs."""

    def stack(self, model, granularity="block"):
        stack = super().stack(model, granularity)
        if granularity == "sublayer":
            run = stack.run
            stack.run = lambda index, present, state: run(index, [present[0], any(present)], state)
        return stack


class CountsTheBlockForEachHalf(SublayerPlayers):
    def players(self, model, granularity="block"):
        players = super().players(model, granularity)
        if granularity == "block":
            return players
        blocks = super().players(model)
        return tuple(replace(half, parameters=blocks[half.index // 2].parameters) for half in players)


class RemovesTheWholeBlock(SublayerPlayers):
    """Where one of its halves is to go."""

    def can_remove(self, model, absent, granularity="block"):
        return super().can_remove(model, self.whole(model, absent, granularity), granularity)

    def remove(self, model, absent, granularity="block"):
        return super().remove(model, self.whole(model, absent, granularity), granularity)

    def whole(self, model, absent, granularity):
        players = self.players(model, granularity)
        checked_indices(absent, len(players))
        return {half for each in absent for half in (each, each ^ 1)} if granularity == "sublayer" else absent


class LetsLayerTypesFollowTheMlps(SublayerPlayers):
    """Where a block gets the MLP of a later one, it gets that block's kind of attention too."""

    family = small(
        "gemma2",
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
    )

    def remove(self, model, absent, granularity="block"):
        kinds = list(model.config.layer_types)
        model = super().remove(model, absent, granularity)
        if granularity == "sublayer":
            model.config.layer_types = [
                kind for block, kind in enumerate(kinds) if 2 * block + 1 not in absent
            ]
        return model


class SiblingPlayers(SublayerPlayers):
    """Breaks nothing: a model without MLPs is one of another family."""

    family = small("llama", hidden_size=16)


class LeavesARemnant(SiblingPlayers):
    """The expert in the place of an absent MLP is not zero."""

    def remove(self, model, absent, granularity="block"):
        removed = super().remove(model, absent, granularity)
        if removed.config.model_type != self.family.model_type:
            for name, weight in removed.named_parameters():
                if "shared_expert" in name or name.endswith("post_attention_layernorm.weight"):
                    weight.data.add_(0.5)
        return removed


class CountsNoRemnants(SiblingPlayers):
    def remnants(self, model, absent, granularity, form):
        return 0


class OffersAFormThatItRefuses(SiblingPlayers):
    def checkpoint_forms(self, model, absent, granularity="block"):
        return tuple(dict.fromkeys((*super().checkpoint_forms(model, absent, granularity), "sibling")))


class NumbersAttentionsByBlock(SublayerPlayers):
    """Where a model has code of its own, its attentions keep the numbers of their blocks."""

    def remove_as(self, model, absent, granularity, form):
        kept = [block for block in range(len(blocks_of(model))) if 2 * block not in absent]
        removed = super().remove_as(model, absent, granularity, form)
        if form == "remote-code":
            for block, layer in zip(kept, blocks_of(removed), strict=True):
                layer.self_attn.layer_idx = block
        return removed


class MatchesEverything(Sound):
    def matches(self, model: nn.Module):
        return True
