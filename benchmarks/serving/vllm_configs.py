"""Which window vLLM's own code gives to each layer of a whole and of a cut model, from their configs.

    python benchmarks/serving/vllm_configs.py write DIR gemma3_text mamba      # in shapcut's environment
    VLLM_PYTHON benchmarks/serving/vllm_configs.py read DIR RESULT.json        # in vLLM's

Models are built on the meta device: no weight is needed, and one process reads all. Mixtures of experts are
not read this way: vLLM makes their process group only for the first model.
"""

import json
import sys
from pathlib import Path
from typing import Any


def write(place: Path, families: list[str]) -> None:
    """Configs of hf-decoder's example of each family, whole and with some blocks removed."""
    from shapcut.host.host import build_host  # noqa: PLC0415 - the other mode has no shapcut

    adapter = build_host().adapters.create("hf-decoder")
    for family in families:
        build = adapter.examples()[family]

        def fresh(build: Any = build) -> Any:
            return adapter.canonicalise(build(0)[0])

        whole = fresh()
        removable = [player.index for player in adapter.players(whole) if player.removable]
        _save(whole, place / family / "whole")
        for removed in (removable[:1], removable[1:2], removable[:2], removable[-1:]):
            name = f"without {' and '.join(map(str, removed))}"
            _save(adapter.remove(fresh(), removed), place / family / name)


def _save(model: Any, place: Path) -> None:
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(place)


def read(place: Path, result: Path) -> None:
    """What vLLM makes of every config: each attention layer's window, or its refusal."""
    found: dict[str, dict[str, Any]] = {}
    for config in sorted(place.glob("*/*/config.json")):
        family, name = config.parts[-3:-1]
        of_family = found.setdefault(family, {})
        try:
            of_family[name] = _windows(config.parent)
        except Exception as error:  # noqa: BLE001 - what vLLM raises is the result
            of_family[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _windows(model: Path) -> list[int | None]:
    import torch  # noqa: PLC0415 - as above
    from vllm.config import set_current_vllm_config  # noqa: PLC0415
    from vllm.distributed import parallel_state  # noqa: PLC0415
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415
    from vllm.model_executor.model_loader.utils import initialize_model  # noqa: PLC0415

    options: dict[str, Any] = {"max_model_len": 32, "enforce_eager": True, "max_num_seqs": 2}
    config = EngineArgs(
        model=str(model), skip_tokenizer_init=True, dtype="float32", **options
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not parallel_state.model_parallel_is_initialized():
            rendezvous = (model.parents[1] / "rendezvous").absolute().as_uri()
            parallel_state.init_distributed_environment(1, 0, rendezvous, 0, "gloo")
            parallel_state.ensure_model_parallel_initialized(1, 1)
        with torch.device("meta"):
            initialize_model(vllm_config=config)
    layers = config.compilation_config.static_forward_context.values()
    return [getattr(layer, "sliding_window", None) for layer in layers]


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3:])
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
