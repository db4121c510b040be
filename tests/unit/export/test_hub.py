"""Publishing a checkpoint, with the hub's real client and a local server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub, hub_stand_in
from huggingface_hub import constants

from shapcut.cli.main import run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in(monkeypatch) as found:
        yield found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What `prune` leaves, made with absolute paths, one of which has a space."""
    out = tmp_path / "home" / "me" / "out"
    model, text = tmp_path / "home" / "me" / "my model", tmp_path / "home" / "me" / "my_text.txt"
    (out / "additional_chat_templates").mkdir(parents=True)
    escaped = str(text).replace("_", "\\_")
    (out / "README.md").write_text(
        f"---\nlicense: mit\n---\n\n# out\n\n{model} with 2 of its 6 blocks removed\n\n"
        f"- Calibration text: {escaped}\n- Command:\n\n"
        f"      shapcut prune '{model}' --out {out} --calibration={text} --run /var/lib/me/run\n\n"
        f"see https://example.org/a/b\n```yaml\n- model: {model}\n```\n"
    )
    (out / "recipe.yaml").write_text(f"model: {model}\ncalibration: {text}\nremove: 2\n")
    (out / "plan.json").write_text('{"removed": [1, 2]}')
    (out / "config.json").write_text('{"_name_or_path": "/home/me/somewhere/model", "hidden_size": 8}')
    (out / "tokenizer.json").write_text('{"vocab": {"/usr/bin/x": 1, "\\u0120": 2}}')
    (out / "LICENSE").write_text("MIT")
    (out / "model.safetensors").write_bytes(bytes(range(256)))
    (out / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")
    (out / ".child.lock").write_text("")
    return out


def test_every_file_arrives_without_paths_of_this_machine(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    assert run(["push", str(checkpoint), "me/small"]) == 0
    told = capsys.readouterr()
    assert told.out == f"published at {constants.ENDPOINT}/me/small\n"
    assert hub.tokens == {TOKEN}
    assert hub.created[0]["name"] == "small"
    assert hub.created[0]["visibility"] == "private"
    files = hub.files["me/small"]
    visible = {path.relative_to(checkpoint).as_posix(): path for path in before} | {}
    del visible[".child.lock"]
    assert set(files) == set(visible)
    for name in ("model.safetensors", "tokenizer.json", "LICENSE", "plan.json"):
        assert files[name] == visible[name].read_bytes()
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert name == "tokenizer.json" or b"/me/" not in content, name
    card = files["README.md"].decode()
    assert "\nmy model with 2 of its" in card
    assert "prune 'my model' --out out --calibration=my_text.txt --run run\n" in card
    assert "https://example.org/a/b" in card
    assert files["recipe.yaml"].decode() == "model: my model\ncalibration: my_text.txt\nremove: 2\n"
    assert files["config.json"] == b'{"_name_or_path": "model", "hidden_size": 8}'
    assert {path: path.read_bytes() for path in before} == before


def test_a_model_that_exists_is_only_updated_on_request(
    hub: Hub, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.existing.add("me/small")
    assert run(["push", str(checkpoint), "me/small"]) == 2
    assert "me/small exists on the hub; choose another name" in capsys.readouterr().err
    assert not hub.files
    assert run(["push", str(checkpoint), "me/small", "--update", "--public"]) == 0
    assert hub.files["me/small"]["LICENSE"] == b"MIT"
    assert hub.created[-1]["visibility"] == "public"


def test_the_token_is_not_in_an_error(
    hub: Hub, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fails = True
    assert run(["push", str(checkpoint), "me/small"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("shapcut: cannot push to me/small: ")
    assert "not allowed with ***" in told
    assert len(told.splitlines()) == 1
    assert TOKEN not in told


REFUSED = {
    "a malformed name": (["me/a/b"], {}, "'me/a/b' cannot be a model on the hub"),
    "no token": (["me/small"], {"HF_TOKEN": ""}, "there is no access token"),
}


@pytest.mark.parametrize(("arguments", "environment", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("command", ["push", "prune"])
def test_what_cannot_be_pushed_is_refused_before_any_work(
    hub: Hub, checkpoint: Path, tmp_path: Path, tiny_llama_directory: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    command: str, arguments: list[str], environment: dict[str, str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    new = tmp_path / "new"
    prune = ["prune", str(tiny_llama_directory), "--out", str(new), "--remove", "1", "--push-to-hub"]
    assert run([*(["push", str(checkpoint)] if command == "push" else prune), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not hub.created
    assert not new.with_name("new.run").exists()


@pytest.mark.parametrize("missing", ["plan.json", "README.md", "recipe.yaml", "model.safetensors"])
def test_only_finished_checkpoints_are_pushed(
    hub: Hub, checkpoint: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    (checkpoint / missing).unlink()
    assert run(["push", str(checkpoint), "me/small"]) == 2
    told = "weight files" if missing.endswith("tensors") else missing
    assert f"is not a finished checkpoint of shapcut: it has no {told}" in capsys.readouterr().err
    shutil.rmtree(checkpoint)
    assert run(["push", str(checkpoint), "me/small"]) == 2
    assert "does not exist; name what prune or apply wrote" in capsys.readouterr().err
    assert not hub.created


def test_several_results_are_refused(
    hub: Hub, tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--out", str(tmp_path / "new"), "--remove", "1,2", "--push-to-hub", "me/small"]
    assert run(["prune", str(tiny_llama_directory), *place]) == 2
    assert "--push-to-hub needs one target" in capsys.readouterr().err


@pytest.fixture
def small_gguf(checkpoint: Path, tmp_path: Path) -> Path:
    """A GGUF file, with the texts about it in its run directory."""
    file, directory = tmp_path / "small.gguf", tmp_path / "small.gguf.run"
    file.write_bytes(b"GGUF" + bytes(range(256)))
    directory.mkdir()
    for name in ("README.md", "plan.json", "recipe.yaml"):
        shutil.copyfile(checkpoint / name, directory / name)
    (directory / "evaluations.sqlite").write_bytes(b"private")
    return file


def test_a_gguf_file_arrives_with_the_texts_of_its_run(hub: Hub, small_gguf: Path, tmp_path: Path) -> None:
    assert run(["push", str(small_gguf), "me/small"]) == 0
    files = hub.files["me/small"]
    assert set(files) == {"small.gguf", "README.md", "plan.json", "recipe.yaml"}
    assert files["small.gguf"] == small_gguf.read_bytes()
    assert "prune 'my model' --out out" in files["README.md"].decode()
    assert not any(str(tmp_path).encode() in content for content in files.values())
    moved = small_gguf.with_name("small.gguf.run").rename(tmp_path / "elsewhere")
    assert run(["push", str(small_gguf), "me/small", "--update", "--run", str(moved)]) == 0


@pytest.mark.parametrize("missing", ["README.md", "plan.json", "recipe.yaml"])
def test_a_gguf_file_without_its_run_is_not_published(
    hub: Hub, small_gguf: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    small_gguf.with_name("small.gguf.run").joinpath(missing).unlink()
    assert run(["push", str(small_gguf), "me/small"]) == 2
    assert f"small.gguf.run has no {missing}; name with --run" in capsys.readouterr().err
    assert not hub.created


def test_any_other_file_is_not_published(
    hub: Hub, small_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gguf.write_bytes(b"GGML")
    assert run(["push", str(small_gguf), "me/small"]) == 2
    assert "small.gguf is not a GGUF file; name what prune or apply wrote" in capsys.readouterr().err
