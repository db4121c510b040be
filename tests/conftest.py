"""What tests share is in `support`; the process that only hands tests to others does not import it."""

import logging
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub; read when huggingface_hub is imported


def pytest_configure(config: pytest.Config) -> None:
    hands_out = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        for imported_on_demand in ("torchao", "torch.utils._pytree"):
            logging.getLogger(imported_on_demand).setLevel(logging.ERROR)
        config.pluginmanager.import_plugin("tiny_checkpoints")
