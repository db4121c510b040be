"""What an installed shapcut must do without this source tree; `make dist` runs it in a clean environment."""

import json
import subprocess
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "vocab_size": 300,
}
FILES = {
    "shapcut": ("measurement/zero_shot.yaml", "__init__.pyi", "contracts.pyi"),
    "shapcut_adapters": ("transformers/supported.json",),
    "shapcut_plugins": ("report/report.html.jinja", "report/page.css"),
}


def shapcut(*arguments: str, place: str) -> str:
    """What a command prints; an error ends the check."""
    command = [sys.executable, "-m", "shapcut", *arguments]
    return subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Check version, files that are no code, plugins, and a model's config."""
    missing = [
        f"{package}/{name}"
        for package, names in FILES.items()
        for name in names
        if not resources.files(package).joinpath(name).is_file()
    ]
    if missing:
        raise SystemExit(f"not in the distribution: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as place:
        Path(place, "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        version = shapcut("--version", place=place).split()[-1]
        if version != metadata.version("shapcut"):
            raise SystemExit(f"shapcut --version says {version}")
        found = json.loads(shapcut("inspect", "config.json", "--json", place=place))
        if len(found["players"]) != CONFIG["num_hidden_layers"]:
            raise SystemExit(f"shapcut inspect finds {len(found['players'])} players")
        if json.loads(shapcut("plugins", "--json", place=place))["broken"]:
            raise SystemExit("a plugin is broken")
    sys.stdout.write(f"shapcut {version} works as installed\n")


if __name__ == "__main__":
    main()
