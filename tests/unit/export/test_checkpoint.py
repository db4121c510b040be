from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from shapcut.data.windows import Calibration
from shapcut.export.checkpoint import CheckpointReport, default_tolerance, write_checkpoint
from shapcut.export.model_card import CardFacts, license_of, render_card
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.perplexity import PerplexityResult
from shapcut.measurement.record import ModelMeasurement
from shapcut.models.adapter import Adapter
from shapcut.support.errors import ShapcutError, VerificationError

IDS = torch.arange(2, 42).reshape(2, 20)
PLAN = RemovalPlan.removing([1, 4], 6, method="greedy", utility="log-likelihood")


@pytest.fixture
def expected(llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM) -> Tensor:
    """Logits of the original with the plan's players bypassed."""
    with llama_adapter.bypass(tiny_llama_model, PLAN.kept):
        return llama_adapter.logits(tiny_llama_model, IDS)


@pytest.fixture
def pruned(llama_adapter: Adapter, expected: Tensor, tiny_llama_model: LlamaForCausalLM) -> nn.Module:
    return llama_adapter.remove(tiny_llama_model, PLAN.removed)


def write(
    adapter: Adapter, model: nn.Module, tokenizer: Any, out: Path, expected: Tensor, **options: Any
) -> CheckpointReport:
    return write_checkpoint(
        adapter,
        model,
        tokenizer,
        out,
        plan=PLAN,
        recipe_text="seed: 0\n",
        card="# Card\n",
        verify_ids=IDS,
        expected_logits=expected,
        **options,
    )


def test_a_checkpoint_loads_in_plain_transformers(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    out = tmp_path / "out"
    report = write(llama_adapter, pruned, tokenizer, out, expected)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(model(IDS).logits, expected, atol=1e-5)
    assert AutoTokenizer.from_pretrained(out)("abc").input_ids == tokenizer("abc").input_ids
    assert RemovalPlan.read(out / "plan.json") == PLAN
    assert (out / "recipe.yaml").read_text() == "seed: 0\n"
    assert (out / "README.md").read_text() == "# Card\n"
    assert report.directory == out
    assert report.max_difference <= report.tolerance == 1e-4
    assert report.weight_bytes == (out / "model.safetensors").stat().st_size
    assert report.total_bytes == sum(file.stat().st_size for file in out.iterdir())


def test_writing_is_quiet(
    *,
    llama_adapter: Adapter,
    pruned: nn.Module,
    tokenizer: Any,
    tmp_path: Path,
    expected: Tensor,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write(llama_adapter, pruned, tokenizer, tmp_path / "out", expected)
    assert capfd.readouterr() == ("", "")


def test_a_model_without_a_tokenizer_is_written(
    llama_adapter: Adapter, pruned: nn.Module, tmp_path: Path, expected: Tensor
) -> None:
    write(llama_adapter, pruned, None, tmp_path / "out", expected)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_16_bit_checkpoint_may_differ_by_rounding_only(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    pruned.to(torch.bfloat16)
    rounded = llama_adapter.logits(pruned, IDS)
    report = write(llama_adapter, pruned, tokenizer, tmp_path / "out", rounded)
    assert report.tolerance == pytest.approx(4 * 2**-7 * float(rounded.abs().max()))
    with pytest.raises(VerificationError, match="differs"):
        write(llama_adapter, pruned, tokenizer, tmp_path / "other", rounded + 2 * report.tolerance)


def failure(
    adapter: Adapter, model: nn.Module, tokenizer: Any, out: Path, expected: Tensor, **options: Any
) -> str:
    """The message of the failure, which must leave nothing behind."""
    with pytest.raises(VerificationError) as caught:
        write(adapter, model, tokenizer, out, expected, **options)
    assert list(out.parent.iterdir()) == []
    return str(caught.value)


def test_a_checkpoint_that_differs_is_not_left_behind(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    wrong = expected.clone()
    wrong[1, 3, 7] += 1e-3
    message = failure(llama_adapter, pruned, tokenizer, tmp_path / "out", wrong)
    assert "0.001" in message
    assert write(llama_adapter, pruned, tokenizer, tmp_path / "out", wrong, tolerance=1e-2).tolerance == 1e-2


def test_logits_that_are_not_numbers_do_not_pass(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    broken = expected.clone()
    broken[0, 0, 0] = float("nan")
    failure(llama_adapter, pruned, tokenizer, tmp_path / "out", broken, tolerance=1e9)


def test_another_shape_does_not_pass(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    assert "shape" in failure(llama_adapter, pruned, tokenizer, tmp_path / "out", expected[:, :-1])


@pytest.mark.parametrize("layers", [3, 5])
def test_missing_or_left_over_weights_do_not_pass(
    *,
    llama_adapter: Adapter,
    pruned: nn.Module,
    tokenizer: Any,
    tmp_path: Path,
    expected: Tensor,
    layers: int,
) -> None:
    pruned.config.num_hidden_layers = layers  # type: ignore[union-attr]
    message = failure(llama_adapter, pruned, tokenizer, tmp_path / "out", expected)
    assert "cannot be loaded" in message
    assert "missing_keys" in message or "unexpected_keys" in message


def test_a_directory_in_use_is_left_alone(
    llama_adapter: Adapter, pruned: nn.Module, tokenizer: Any, tmp_path: Path, expected: Tensor
) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ShapcutError, match="cannot write"):
        write(llama_adapter, pruned, tokenizer, tmp_path, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_the_tolerance_follows_the_dtype() -> None:
    assert default_tolerance(torch.float32, 100.0) == 1e-4
    assert default_tolerance(torch.float64, 100.0) == 1e-4
    assert default_tolerance(torch.float16, 20.0) == 4 * 2**-10 * 20
    assert default_tolerance(torch.bfloat16, 0.1) == 4 * 2**-7


def figures(nats: float, parameters: int) -> ModelMeasurement:
    """Figures of a model with this loss over 10 tokens and this size."""
    return ModelMeasurement(
        parameters=parameters,
        weight_bytes=0,
        checkpoint_bytes=None,
        peak_memory_bytes=None,
        perplexity=PerplexityResult.of([nats], [10]),
        held_out_source="builtin",
        held_out_fingerprint="",
        sequence_length=5,
        adds_bos=False,
        latency=None,
    )


def card(**changes: Any) -> str:
    calibration = Calibration(torch.arange(12).reshape(3, 4), "builtin", adds_bos=True)
    held_out = Calibration(torch.arange(10).reshape(2, 5), "builtin", adds_bos=False)
    fields: dict[str, Any] = {
        "name": "tiny-pruned",
        "base_model": "owner/tiny",
        "plan": PLAN,
        "calibration": calibration,
        "held_out": held_out,
        "before": figures(20.0, 2000),
        "after": figures(8000.0, 1500),
        "command": "shapcut prune owner/tiny --remove 2",
        "library": "transformers",
        "usage": "import transformers\n",
    }
    return render_card(CardFacts(**(fields | changes)))


def test_a_card_says_what_was_done() -> None:
    text = card()
    for words in (
        "2 of its 6 blocks",
        "original): 1, 4",
        "1,500 (25.0% fewer)",
        "| 7.389 | inf |",
        "3 sequences of 4 tokens",
        "a BOS token first in each",
        "2 sequences of 5 tokens",
        "no BOS token added",
        "shapcut prune owner/tiny --remove 2",
        "Method: greedy",
    ):
        assert words in text


def test_the_front_matter_is_what_the_hub_expects() -> None:
    fields = yaml.safe_load(card().split("---\n")[1])
    assert fields["base_model"] == "owner/tiny"
    assert fields["library_name"] == "transformers"
    assert fields["pipeline_tag"] == "text-generation"
    assert "pruned" in fields["tags"]


def metadata(text: str) -> Any:
    """As huggingface_hub reads it; it refuses a malformed model-index."""
    from huggingface_hub import ModelCard  # noqa: PLC0415 - slow to import

    return ModelCard(text).data


def test_the_hub_reads_what_the_front_matter_says() -> None:
    text = Calibration(torch.arange(12).reshape(3, 4), "hf:owner/corpus:plain", adds_bos=True)
    data = metadata(card(calibration=text, held_out=text, after=figures(25.0, 1500)))
    assert data.base_model == "owner/tiny"
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert (data.datasets, data.metrics) == (["owner/corpus"], ["perplexity"])
    assert (data.pipeline_tag, data.library_name, data.license) == ("text-generation", "transformers", None)
    assert data.model_name == "tiny-pruned"
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type) == ("text-generation", "perplexity")
    assert result.metric_value == pytest.approx(12.1825)
    assert (result.dataset_type, result.dataset_config) == ("owner/corpus", "plain")
    assert result.metric_args["sequence_length"] == 4
    assert result.metric_args["adds_bos"] is True


def test_the_card_of_a_quantized_model_names_its_relation_and_steps() -> None:
    text = card(quantized=True, steps=["compensate", "gptq:bits=4"])
    assert metadata(text).to_dict()["base_model_relation"] == "quantized"
    assert "After the cut: compensate, then gptq:bits=4" in text
    assert "no weight was changed" in card()


@pytest.mark.parametrize(
    ("source", "nats"), [("/home/me/text.txt", 25.0), ("hf:a b", 25.0), ("hf:owner/corpus", 8000.0)]
)
def test_no_evaluation_result_without_a_number_or_on_text_that_nobody_has(source: str, nats: float) -> None:
    text = Calibration(torch.arange(12).reshape(3, 4), source, adds_bos=True)
    data = metadata(card(calibration=text, held_out=text, after=figures(nats, 1500)))
    assert data.eval_results is None
    assert data.datasets == (["owner/corpus"] if source == "hf:owner/corpus" else None)


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (
            "---\nlicense: other\nlicense_name: mine\ntags: [a]\n---\n# It",
            {"license": "other", "license_name": "mine"},
        ),
        ("# no metadata\n---\nlicense: mit\n---\n", {}),
        ("---\n: [\n---\n", {}),
        ("---\nlicense: [mit]\n---\n", {}),
        ("---\nlicense: mit\ndate: 2024-13-45\n---\n", {"license": "mit"}),
        ("---\nlicense: mit\nx: " + "[" * 3000 + "\n---\n", {}),
        ("---\na: &a {b: 1}\nc: {<<: [*a, *a]}\nlicense: mit\n---\n", {}),
        (None, {}),
    ],
)
def test_the_license_is_the_originals_if_it_says_so(
    tmp_path: Path, readme: str | None, expected: dict[str, str]
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert license_of(tmp_path) == expected
    assert license_of(tmp_path / "weights.gguf") == license_of(None) == {}
    data = metadata(card(license_fields=expected))
    assert data.license == expected.get("license")


@pytest.mark.parametrize("name", ["/home/me/model", 'a"b: [c', "x\n---\ny/z", "on", "tiny"])
def test_a_name_that_is_no_hub_id_stays_out_of_the_front_matter(name: str) -> None:
    text = card(base_model=name, name=name)
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])
    assert text.count("\n---\n") == 1


@pytest.mark.parametrize("name", ["owner/123", "1/2", "null/true"])
def test_a_hub_id_stays_a_string(name: str) -> None:
    assert yaml.safe_load(card(base_model=name).split("---\n")[1])["base_model"] == name


def test_markup_in_names_stays_text() -> None:
    text = card(name="a_b_<script>*x*|`y`", command="first\n```\n# second")
    assert r"# a\_b\_\<script\>\*x\*\|\`y\`" in text
    assert "\n      ```\n      # second\n" in text
