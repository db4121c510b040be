"""A checkpoint from anywhere: nothing of it is run, no file outside its directories is read or written."""

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import shapcut
import shapcut_adapters
import shapcut_plugins
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.models.untrusted import is_plain_name
from shapcut.support import plain_yaml
from shapcut.support.errors import InputError
from shapcut_adapters.mamba_ssm.checkpoint import PICKLED
from shapcut_adapters.mamba_ssm.package import import_mamba_ssm

PACKAGES = [Path(str(package.__file__)).parent for package in (shapcut, shapcut_adapters, shapcut_plugins)]
SOURCES = sorted(file for package in PACKAGES for file in package.rglob("*.py"))


class Payload:
    """Unpickled it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Where a payload would leave a trace."""
    return tmp_path / "payload-was-run"


@pytest.fixture
def copied(tmp_path: Path, tiny_llama_directory: Path) -> Path:
    """A checkpoint that may be changed."""
    directory = tmp_path / "model"
    directory.mkdir()
    for file in tiny_llama_directory.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | values), encoding="utf-8")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status = run(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert (status, len(lines)) == (BAD_INPUT, 1), lines
    return lines[0]


@pytest.mark.parametrize("form", ["torch's zip", "torch's old form", "a bare pickle"])
@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin", PICKLED])
def test_a_malicious_pickle_is_refused_and_not_run(
    form: str, name: str, copied: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"emb.weight": torch.zeros(2, 2), "evil": Payload(mark)}
    directory = copied
    (directory / "model.safetensors").unlink()
    file = directory / name
    if form == "a bare pickle":
        file.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "torch's zip")
    if name == "model.pth":
        line = refused(["inspect", str(file)], capsys)
        assert "damaged, or holds more than tensors" in line
    else:
        line = refused(["inspect", str(directory)], capsys)
        assert "pickled weights (.bin, .pth) are not opened" in line
    assert not mark.exists()
    if form == "a bare pickle":
        pickle.loads(file.read_bytes())  # noqa: S301 - proves that the payload would work
        assert mark.exists()


def test_a_malicious_mamba_checkpoint_is_refused_and_not_run(
    copied: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        import_mamba_ssm()
    except InputError as error:
        pytest.skip(str(error))
    (copied / "model.safetensors").unlink()
    (copied / "config.json").write_text(json.dumps({"d_model": 32, "n_layer": 4, "vocab_size": 300}))
    torch.save({"backbone.embedding.weight": Payload(mark)}, copied / PICKLED)
    assert "nothing of it was run" in refused(["inspect", str(copied)], capsys)
    assert not mark.exists()


def test_code_beside_a_checkpoint_is_not_run(
    copied: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    (copied / "custom_generate").mkdir()
    (copied / "custom_generate" / "generate.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    auto_map = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", None],
    }
    change(copied / "config.json", model_type="evil", auto_map=auto_map)
    assert "pass --trust-remote-code if you trust it" in refused(["inspect", str(copied)], capsys)
    change(copied / "config.json", model_type="llama")
    assert run(["inspect", str(copied)]) == 0  # transformers' own class is used
    change(copied / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Evil")
    run(["inspect", str(copied)])
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "ABSOLUTE", "below/../../outside.safetensors", "", 7]
)
def test_a_weight_index_cannot_lead_outside(
    name: Any, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside.safetensors"
    (copied / "model.safetensors").rename(outside)
    place = str(outside) if name == "ABSOLUTE" else name
    weights = dict.fromkeys(load_file(outside), place)
    (copied / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    line = refused(["inspect", str(copied)], capsys)
    assert repr(place) in line
    assert "outside its directory" in line


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": []}', '{"weight_map": null}', "[" * 100_000])
def test_a_weight_index_that_is_damaged(
    content: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors.index.json").write_text(content)
    assert "is damaged" in refused(["inspect", str(copied)], capsys)


def test_weights_of_peft_beside_a_checkpoint_are_refused(
    copied: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied / "adapter_config.json", peft_type="LORA", base_model_name_or_path="/etc")
    torch.save({"w": Payload(mark)}, copied / "adapter_model.bin")
    assert "merge the adapter" in refused(["inspect", str(copied)], capsys)
    assert not mark.exists()


def test_a_tokenizer_cannot_name_files_elsewhere(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes((copied / "tokenizer.json").read_bytes().replace(b"</s>", b"<SECRET>"))
    change(copied / "tokenizer_config.json", tokenizer_file=str(secret), vocab_file=str(secret))
    out = tmp_path / "out"
    sizes = ["--samples", "2", "--sequence-length", "16", "--budget", "10", "--finalist-samples", "0"]
    assert (
        run(["prune", str(copied), "--out", str(out), "--remove", "1", "--held-out-samples", "2", *sizes])
        == 0
    )
    assert "SECRET" not in (out / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b"])  # noqa: S108 - must not be written
def test_a_chat_template_cannot_be_written_elsewhere(
    name: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    templates = [{"name": "default", "template": "x"}, {"name": name, "template": "evil"}]
    change(copied / "tokenizer_config.json", chat_template=templates)
    assert repr(name) in refused(["inspect", str(copied)], capsys)


def test_links_at_the_output_are_not_followed(
    tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (tmp_path / "out").symlink_to(precious)
    line = refused(
        ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "1"], capsys
    )
    assert "not an empty directory" in line
    assert [file.name for file in precious.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "..\\a", "C:a", "C:\\a", "a\0b", None, 3])
def test_names_that_are_not_plain(name: Any) -> None:
    assert not is_plain_name(name)


def test_names_that_are_plain() -> None:
    assert all(map(is_plain_name, ["model-00001-of-00002.safetensors", "a b", "..a", "tool_use"]))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_no_source_opens_pickles_or_runs_text(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for call in calls(tree):
        name = ast.unparse(call.func)
        arguments = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name == "torch.load":
            assert arguments.get("weights_only") == "True", f"{file}:{call.lineno}"
        assert not name.endswith(("pickle.load", "pickle.loads", "Unpickler", "extractall")), (
            f"{file}:{call.lineno}: {name}"
        )
        if name == "yaml.load":  # the one subclass of PyYAML's safe loader
            assert ast.unparse(call.args[1]) == "_PlainLoader", f"{file}:{call.lineno}"
            assert issubclass(plain_yaml._PlainLoader, yaml.SafeLoader)
        assert name not in {"eval", "exec", "os.system"}, f"{file}:{call.lineno}: {name}"
        assert arguments.get("shell") != "True", f"{file}:{call.lineno}"
        assert arguments.get("trust_remote_code") != "True", f"{file}:{call.lineno}"
        assert arguments.get("allow_pickle") != "True", f"{file}:{call.lineno}"


def test_weights_with_other_content_are_only_data(copied: Path, mark: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt", "code": str(mark)})
    assert run(["inspect", str(copied)]) == 0
    assert not mark.exists()
