"""Whatever can be wrong with a command: one line that says what, with which value, and what to do."""

import importlib.util
import shlex
from pathlib import Path

import pytest

from shapcut.cli.exits import BAD_INPUT, FAILED, TRACEBACK, UNFORESEEN
from shapcut.cli.main import run

PRUNE = "prune {model} --out {out} --calibration {text}"
SCORE = "score {model} --run {run} --calibration {text} --samples 2 --sequence-length 16 --budget 20"

# fmt: off
CASES: dict[str, tuple[str, ...]] = {
    "a command that does not exist": ("prun {model}", "'prun'", "'prune'"),
    "no model": ("prune --out {out}", "model is not given"),
    "no output": ("prune {model} --remove 2", "--out"),
    "one word too many": ("inspect {model} {model}", "unexpected", "tiny-llama"),
    "an option of another command": ("inspect {model} --remove 2", "--remove"),
    "apply without a plan": ("apply {model} --out {out}", "--plan"),
    "an option without its value": ("prune {model} --out", "--out", "requires"),
    "an empty name": ("inspect ''", "unknown model ''"),
    "a name that is no name": ("inspect 'a b/c d'", "'a b/c d'", "no such directory"),
    "a way up": ("inspect ../../../nowhere", "'../../../nowhere'"),
    "a model that is nowhere": ("inspect no/such-model-anywhere", "no/such-model-anywhere", "hub"),
    "a demo without a name": ("inspect demo:", "known: smollm2-135m"),
    "an empty directory": (
        "inspect {empty_directory}",
        "empty_directory", "config.json", "asked: mamba-ssm, rwkv-pth, rwkv7-hf",
    ),
    "a text as a model": ("inspect {text}", "text.txt", "name a .gguf file or"),
    "an empty file": ("inspect {empty}", "empty.txt", "name a .gguf file or"),
    "a config that is empty": ("inspect {config_empty}", "config_empty", "damaged", "take another copy"),
    "a config that is binary": ("inspect {config_binary}", "config_binary", "0xff", "take another copy"),
    "a config that is a list": (
        "inspect {config_list}",
        "config_list", "no JSON object", "take another copy",
    ),
    "a config that is a directory": ("inspect {config_directory}", "config_directory", "no config.json"),
    "a config that is nested too deeply": (
        "inspect {config_deep}",
        "config_deep", "recursion", "take another copy",
    ),
    "a config without a model type": ("inspect {config_untyped}", "config_untyped", "model_type"),
    "a config of an unknown type": ("inspect {config_unknown}", "`lama`"),
    "a config with half a head": ("inspect {config_heads}", "32", "3"),
    "a config of more layers than weights": (
        "inspect {config_layers}",
        "lacks 9 weights", "model.layers.6", "LlamaForCausalLM",
    ),
    "a quantization nobody knows": ("inspect {config_quantized}", "'magic'", "known: "),
    "no weights": ("evaluate {no_weights}", "no model.safetensors", "save_pretrained"),
    "weights that are cut short": (
        "inspect {weights_cut}",
        "weights_cut", "not fully covered", "is the copy complete?",
    ),
    "weights that are text": (
        "inspect {weights_text}",
        "weights_text", "is longer than the file", "is the copy complete?",
    ),
    "no tokenizer": (
        "score {no_tokenizer} --run {run}",
        "no_tokenizer", "put the model's own tokenizer.json",
    ),
    "a tokenizer that is damaged": (
        "score {tokenizer_damaged} --run {run}",
        "tokenizer_damaged", "line 1", "put the model's own tokenizer.json",
    ),
    "an encoder": ("score {bert} --run {run}", "'bert'", "an encoder"),
    "an encoder-decoder": ("score {t5} --run {run}", "'t5'", "an encoder-decoder"),
    "a gguf file of four bytes": ("inspect {gguf_magic}", "magic.gguf", "is the copy complete?"),
    "a gguf file that is cut short": ("inspect {gguf_cut}", "cut.gguf", "is the copy complete?"),
    "a gguf file that is offloaded": (
        "prune {gguf} --out {out} --remove 2 --offload disk",
        "--offload disk", "safetensors",
    ),
    "a pth file that is empty": ("inspect {pth_empty}", "empty.pth", "take another copy"),
    "a pth file that is text": ("inspect {pth_text}", "text.pth", "take another copy"),
    "two pth files": ("inspect {pth_two}", "2 .pth files", "name the one that is meant"),
    "a pth file of something else": ("inspect {pth_other}", "other.pth", "'emb.weight'"),
    "mamba_ssm without blocks": ("inspect {mamba_none}", "n_layer=0"),
    "mamba_ssm with a field too many": ("inspect {mamba_field}", "n_layers"),
    "mamba_ssm without weights": ("inspect {mamba_bare}", "mamba_bare", "pytorch_model.bin"),
    "an output that is a file": (f"{PRUNE} --remove 2 --out {{file}}", "--out", "choose another one"),
    "an output that has files": (
        f"{PRUNE} --remove 2 --out {{full_directory}}",
        "full_directory", "choose another one",
    ),
    "the model as the output": (f"{PRUNE} --remove 2 --out {{model}}", "tiny-llama", "choose another one"),
    "an output below a file": (f"{PRUNE} --remove 2 --out {{file}}/out", "--out", "Not a directory"),
    "an empty name as the output": (f"{PRUNE} --remove 2 --out ''", "--out .", "choose another one"),
    "a run below a file": (f"{PRUNE} --remove 2 --run {{file}}/run", "--run", "Not a directory"),
    "a run that is a file": (f"{SCORE} --run {{file}}", "--run", "Not a directory"),
    "a run inside the output": (
        f"{PRUNE} --remove 2 --run {{out}}/run",
        "--run", "inside --out", "choose another one",
    ),
    "a run at the output": (
        f"{PRUNE} --remove 2 --run {{out}}",
        "--run", "inside --out", "choose another one",
    ),
    "a run of another model": (
        f"{SCORE} --run {{other_run}}",
        "other_run", "'another'", "choose another --run",
    ),
    "a run with a damaged store": (
        f"{SCORE} --run {{damaged_run}}",
        "damaged_run", "damaged", "move it away",
    ),
    "a run with a store that is a directory": (
        f"{SCORE} --run {{directory_run}}",
        "directory_run", "unable to open", "choose another --run",
    ),
    "no target": (PRUNE, "no target", "--remove N"),
    "nothing to remove": (f"{PRUNE} --remove 0", "remove", "0"),
    "less than nothing": (f"{PRUNE} --remove -3", "remove", "-3"),
    "half a player": (f"{PRUNE} --remove 2.5", "remove", "2.5"),
    "a word for a number": (f"{PRUNE} --remove two", "remove", "two"),
    "all players": (f"{PRUNE} --remove 6", "--remove 6", "1 to 5"),
    "a number with no end": (f"{PRUNE} --remove 9999999999999999999999999999999999999999", "9999", "1 to 5"),
    "the same number twice": (f"{PRUNE} --remove 2,2", "(2, 2)"),
    "an empty list": (f"{PRUNE} --remove ,", "remove"),
    "a ratio that is no number": (f"{PRUNE} --ratio nan", "ratio", "nan"),
    "a ratio of infinity": (f"{PRUNE} --ratio inf", "ratio", "inf"),
    "a ratio of one": (f"{PRUNE} --ratio 1", "ratio", "1"),
    "a ratio that removes nobody": (f"{PRUNE} --ratio 0.01", "--ratio 0.01", "1 to 5"),
    "a percentage": (f"{PRUNE} --ratio 20%", "ratio", "20%"),
    "parameters that are no number": (f"{PRUNE} --parameters many", "parameters", "many"),
    "parameters without end": (f"{PRUNE} --parameters infB", "parameters", "infB"),
    "parameters that cannot be reached": (f"{PRUNE} --parameters 10", "10 parameters", "28,512 or more"),
    "parameters that it has already": (f"{PRUNE} --parameters 900M", "74,912", "900,000,000"),
    "memory of no size": (f"{PRUNE} --memory lots", "memory", "lots"),
    "memory of nothing": (f"{PRUNE} --memory 0", "memory", "0"),
    "memory that cannot be reached": (f"{PRUNE} --memory 1KiB", "1,024 bytes", "114,048 or more"),
    "a speedup that is none": (f"{PRUNE} --speedup 1", "speedup", "1"),
    "a speedup that cannot be reached": (f"{PRUNE} --speedup 1000", "1000 times", "at most"),
    "two targets": (f"{PRUNE} --remove 2 --memory 1MiB", "remove 2", "memory 1048576"),
    "an estimator with a typo": (f"{PRUNE} --remove 2 --estimator surogate", "did you mean 'surrogate'?"),
    "a selector with a typo": (f"{PRUNE} --remove 2 --selector serch", "did you mean 'search'?"),
    "a sampler with a typo": (f"{PRUNE} --remove 2 --sampler shaply", "did you mean 'shapley'?"),
    "a utility with a typo": (
        f"{PRUNE} --remove 2 --utility log-likelyhood",
        "did you mean 'log-likelihood'?",
    ),
    "an executor with a typo": (f"{PRUNE} --remove 2 --executor rai", "did you mean 'ray'?"),
    "a preset with a typo": (f"{PRUNE} --remove 2 --preset papper", "did you mean 'paper'?"),
    "an option with a typo": (
        f"{PRUNE} --remove 2 --estimator surrogate:shre=1",
        "'shre'", "did you mean 'share'?",
    ),
    "an option out of range": (f"{PRUNE} --remove 2 --estimator surrogate:share=2", "share=2.0", "(0, 1]"),
    "an option without a value": (f"{PRUNE} --remove 2 --estimator surrogate:share", "'share'", "key=value"),
    "an option twice": (
        f"{PRUNE} --remove 2 --estimator surrogate:share=1,share=0.5",
        "'share'", "twice", "leave one out",
    ),
    "an option of the wrong type": (f"{PRUNE} --remove 2 --selector search:batch=many", "batch", "many"),
    "an option of local": (f"{PRUNE} --remove 2 --executor local:workers=2", "'workers'"),
    "a sampler nobody asks": (
        f"{PRUNE} --remove 2 --estimator exact --sampler shapley",
        "'exact'", "'sampler'",
    ),
    "a budget of nothing": (f"{PRUNE} --remove 2 --budget 0", "budget", "0", "1"),
    "a budget too small": (f"{PRUNE} --remove 2 --budget 5", "at least 7", "got 5"),
    "a budget too small for exact": (f"{PRUNE} --remove 2 --estimator exact --budget 63", "64", "got 63"),
    "a dtype nobody has": (f"{PRUNE} --remove 2 --dtype float8", "dtype", "float8", "bfloat16"),
    "a device nobody has": (f"{PRUNE} --remove 2 --device tpu9", "--device tpu9"),
    "a granularity nobody has": (f"{PRUNE} --remove 2 --granularity head", "granularity", "head", "block"),
    "batches of nothing": (f"{PRUNE} --remove 2 --batch-size 0", "batch-size", "0", "1"),
    "no memory budget": (f"{PRUNE} --remove 2 --memory-budget 0", "memory-budget", "0"),
    "a negative seed": (f"{PRUNE} --remove 2 --seed -1", "seed", "-1", "0"),
    "half a seed": (f"{PRUNE} --remove 2 --seed 0.5", "seed", "0.5"),
    "finalists less than none": (f"{PRUNE} --remove 2 --finalist-samples -1", "finalist-samples", "-1", "0"),
    "mended finalists without mending": (
        f"{PRUNE} --remove 2 --mend-finalists --no-mend",
        "--mend-finalists", "--mend",
    ),
    "no held-out text": (f"{PRUNE} --remove 2 --held-out-samples 0", "held-out-samples", "0", "1"),
    "calibration that is nowhere": (
        f"{PRUNE} --remove 2 --calibration nowhere.txt",
        "nowhere.txt", "does not exist",
    ),
    "calibration with a typo": (
        f"{PRUNE} --remove 2 --calibration bultin",
        "bultin", "did you mean 'builtin'?",
    ),
    "calibration that is a directory": (
        f"{PRUNE} --remove 2 --calibration {{empty_directory}}",
        "empty_directory", "use 'builtin'",
    ),
    "calibration that is no text": (
        f"{PRUNE} --remove 2 --calibration {{model}}/model.safetensors",
        "model.safetensors", "use 'builtin'",
    ),
    "calibration that is not UTF-8": (
        f"{PRUNE} --remove 2 --calibration {{latin}}",
        "latin.txt", "byte 2", "convert it",
    ),
    "calibration that is empty": (f"{PRUNE} --remove 2 --calibration {{empty}}", "empty.txt", "is empty"),
    "calibration that is too short": (
        f"{PRUNE} --remove 2 --calibration {{short}}",
        "2048 tokens", "it has 6", "give a longer text",
    ),
    "JSON lines that are none": (
        f"{PRUNE} --remove 2 --calibration {{jsonl_broken}}",
        "broken.jsonl, line 2",
    ),
    "JSON lines without text": (
        f"{PRUNE} --remove 2 --calibration {{jsonl_textless}}",
        "textless.jsonl, line 1", "\"text\"",
    ),
    "JSON lines that are nested too deeply": (
        f"{PRUNE} --remove 2 --calibration {{jsonl_deep}}",
        "deep.jsonl, line 1", "recursion",
    ),
    "a data set without a name": (f"{PRUNE} --remove 2 --calibration hf:", "'hf:'", "hf:NAME"),
    "no samples": (f"{PRUNE} --remove 2 --samples 0", "samples", "0", "1"),
    "windows of one token": (f"{PRUNE} --remove 2 --sequence-length 1", "sequence-length", "1", "2"),
    "windows longer than the model reads": (f"{PRUNE} --remove 2 --sequence-length 257", "257", "256 tokens"),
    "windows of words": (f"{PRUNE} --remove 2 --sequence-length long", "sequence-length", "long"),
    "a recipe that is nowhere": (f"{PRUNE} --recipe nowhere.yaml", "nowhere.yaml"),
    "a recipe that is a directory": (f"{PRUNE} --recipe {{empty_directory}}", "empty_directory"),
    "a recipe that is empty": (f"{PRUNE} --recipe {{empty}}", "empty.txt", "mapping"),
    "a recipe that is binary": (f"{PRUNE} --recipe {{model}}/model.safetensors", "model.safetensors"),
    "a recipe that is not UTF-8": (f"{PRUNE} --recipe {{latin}}", "latin.txt"),
    "a recipe that is a list": (f"{PRUNE} --recipe {{recipe_list}}", "list.yaml", "mapping"),
    "a recipe that is not YAML": (f"{PRUNE} --recipe {{recipe_broken}}", "broken.yaml", "not YAML"),
    "a recipe with a typo": (f"{PRUNE} --recipe {{recipe_typo}}", "'remve'", "did you mean 'remove'?"),
    "a recipe with a wrong type": (f"{PRUNE} --recipe {{recipe_type}}", "type.yaml", "remove"),
    "a recipe with an impossible date": (f"{PRUNE} --recipe {{recipe_date}}", "date.yaml", "2024-13-45"),
    "a recipe that would run code": (f"{PRUNE} --recipe {{recipe_code}}", "code.yaml", "os.getpid"),
    "a recipe that is nested too deeply": (f"{PRUNE} --recipe {{recipe_deep}}", "deep.yaml"),
    "a recipe that contains itself": (f"{PRUNE} --recipe {{recipe_cycle}}", "cycle.yaml", "anchor"),
    "a recipe with a number of steps": (
        f"{PRUNE} --remove 2 --recipe {{recipe_then}}",
        "then.yaml", "then", "3",
    ),
    "an unknown step": (f"{PRUNE} --remove 2 --then gptqq", "'gptqq'", "did you mean 'gptq'?"),
    "a step with an unknown option": (
        f"{PRUNE} --remove 2 --then heal:step=3",
        "'step'", "did you mean 'steps'?",
    ),
    "healing in no steps": (f"{PRUNE} --remove 2 --then heal:steps=0", "steps=0", "at least 1"),
    "healing at a rate that is no number": (f"{PRUNE} --remove 2 --then heal:lr=fast", "lr", "'fast'"),
    "mending after healing": (
        f"{PRUNE} --remove 2 --then heal:steps=1 --then compensate",
        "'compensate'", "'heal:steps=1'", "the order is compensate, heal, quantize, export",
    ),
    "healing after quantizing": (
        f"{PRUNE} --remove 2 --then torchao --then heal",
        "'heal'", "'torchao'", "the order is",
    ),
    "quantizing twice": (
        f"{PRUNE} --remove 2 --then torchao --then bitsandbytes",
        "'bitsandbytes'", "'torchao'", "leave it out",
    ),
    "two bits": (f"{PRUNE} --remove 2 --then torchao:kind=int2", "int2", "int4"),
    "five bits": (f"{PRUNE} --remove 2 --then gptq:bits=5", "bits=5", "use one of 2, 4, 8"),
    "groups of seven": (
        f"{PRUNE} --remove 2 --then torchao:kind=int4,group_size=7",
        "group_size=7", "use one of 16, 32, 64, 128",
    ),
    "groups without use": (
        f"{PRUNE} --remove 2 --then torchao:kind=int8,group_size=32",
        "group_size=32", "kind=int4",
    ),
    "a cast to nothing": (f"{PRUNE} --remove 2 --then cast:dtype=float8", "float8", "bfloat16"),
    "a plan that is nowhere": ("apply {model} --plan nowhere.json --out {out}", "nowhere.json"),
    "a plan that is a directory": ("apply {model} --plan {empty_directory} --out {out}", "empty_directory"),
    "a plan that is empty": ("apply {model} --plan {empty} --out {out}", "empty.txt", "not a removal plan"),
    "a plan that is binary": (
        "apply {model} --plan {model}/model.safetensors --out {out}",
        "model.safetensors",
    ),
    "a plan that is a list": (
        "apply {model} --plan {plan_list} --out {out}",
        "list.json", "not a removal plan",
    ),
    "a plan with a gap": (
        "apply {model} --plan {plan_gap} --out {out}",
        "gap.json", "every player exactly once",
    ),
    "a plan for more players": ("apply {model} --plan {plan_seven} --out {out}", "7 players", "has 6"),
    "a plan for another model": (
        "apply {model} --plan {plan_other} --out {out}",
        "another model", "000000000000",
    ),
    "a plan that removes nobody": ("apply {model} --plan {plan_nobody} --out {out}", "remove 0"),
    "a plan that removes everybody": (
        "apply {model} --plan {plan_everybody} --out {out}",
        "--remove 6", "1 to 5",
    ),
    "evaluation of too little text": (
        "evaluate {model} --calibration {short}",
        "4096 tokens", "give a longer text",
    ),
    "evaluation in no windows": ("evaluate {model} --held-out-samples 0", "held-out-samples", "0", "1"),
    "evaluation in windows too long": (
        "evaluate {model} --sequence-length 100000",
        "--sequence-length 100000", "tokens that the model takes",
    ),
    "comparison of nothing": ("compare {model} --run {run}", "--remove 3,6 or --ratios"),
    "comparison of two kinds": (
        "compare {model} --run {run} --remove 2 --ratios 0.1",
        "--remove 3,6 or --ratios",
    ),
    "comparison of words": ("compare {model} --run {run} --ratios some", "--ratios some", "commas"),
    "comparison at no ratio": ("compare {model} --run {run} --ratios 0", "ratio", "0"),
    "comparison of an unknown method": (
        "compare {model} --run {run} --remove 2 --methods papper",
        "'papper'", "did you mean 'paper'?",
    ),
    "comparison of no method": (
        "compare {model} --run {run} --remove 2 --methods ''",
        "unknown method ''", "known: ",
    ),
    "comparison at no budget": (
        "compare {model} --run {run} --remove 2 --methods greedy@none",
        "greedy@none", "number of coalitions",
    ),
    "comparison with a wrong seed": ("compare {model} --run {run} --remove 2 --seeds 1,x", "--seeds 1,x"),
    "comparison with a negative seed": ("compare {model} --run {run} --remove 2 --seeds -1", "--seeds -1"),
    "comparison with a length of nothing": (
        "compare {model} --run {run} --remove 2 --held-out-length 64",
        "--held-out-length", "name one",
    ),
    "comparison on text that is nowhere": (
        "compare {model} --run {run} --remove 2 --held-out nowhere.txt",
        "nowhere.txt", "does not exist",
    ),
    "report of nothing": ("report {run}", "not a directory", "--run"),
    "report of a file": ("report {file}", "not a directory", "--run"),
    "report of no run": ("report {empty_directory}", "manifest.json"),
    "report of a damaged run": ("report {manifest_damaged}", "manifest_damaged", "repeat the run"),
    "report of a run with damaged contributions": (
        "report {contributions_damaged}",
        "contributions_damaged", "repeat the run",
    ),
    "an adapter with a typo": ("check-adapter hf-decodr", "did you mean 'hf-decoder'?"),
    "an example with a typo": ("check-adapter hf-decoder --example lama", "did you mean 'llama'?"),
    "a demo that removes words": ("demo --out {out} --remove some", "remove", "some"),
    "a demo on no budget": ("demo --out {out} --budget 0", "budget", "0", "1"),
}
# fmt: on


@pytest.mark.parametrize(("command", "words"), [(case[0], case[1:]) for case in CASES.values()], ids=CASES)
def test_it_is_refused_before_any_work(
    command: str,
    words: tuple[str, ...],
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(places["full_directory"])
    written = {"out": tmp_path / "out", "run": tmp_path / "run"}
    status = run(shlex.split(command.format(**places, **written)))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert (status, captured.out, len(lines)) == (BAD_INPUT, "", 1), captured.err
    assert lines[0].startswith("shapcut: ")
    assert UNFORESEEN not in lines[0]
    for word in words:
        assert word in lines[0]
    assert not written["out"].exists()
    assert not {"plan.json", "contributions.json"} & {path.name for path in tmp_path.rglob("*")}
    assert [path.name for path in places["full_directory"].iterdir()] == ["precious"]


@pytest.mark.parametrize("step", ["torchao", "gptq", "bitsandbytes", "compressed-tensors", "heal"])
def test_a_step_without_its_package_says_what_to_install(
    step: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    missing = {"torchao", "gptqmodel", "bitsandbytes", "compressed_tensors", "llmcompressor", "peft"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else find(name, *rest)
    )
    command = f"{PRUNE} --remove 2 --then {step}".format(**places, out=tmp_path / "out")
    assert run(shlex.split(command)) == BAD_INPUT
    line = capsys.readouterr().err
    assert step in line
    assert "pip install" in line


def test_a_fault_of_shapcut_itself_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise KeyError("a key\nand more")

    monkeypatch.setattr("shapcut.cli.app.build_host", fail)
    assert run(["adapters"]) == FAILED
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{UNFORESEEN}: KeyError" in line
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(KeyError):
        run(["adapters"])
