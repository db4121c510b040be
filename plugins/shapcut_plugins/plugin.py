"""What the first-party plugins offer."""

import pluggy
import typer

from shapcut.contracts import Register, Run, hookimpl
from shapcut_plugins.cast import Cast
from shapcut_plugins.compensate.step import Compensate
from shapcut_plugins.executors.ray import RayExecutor
from shapcut_plugins.heal.step import Heal
from shapcut_plugins.quantize.auto_gptq import AutoGptq
from shapcut_plugins.quantize.bitsandbytes import BitsAndBytes
from shapcut_plugins.quantize.compressed_tensors import CompressedTensors
from shapcut_plugins.quantize.gptq import Gptq
from shapcut_plugins.quantize.torchao import TorchAO
from shapcut_plugins.report.comparison_page import write_comparison
from shapcut_plugins.report.report import report_command, write_report
from shapcut_plugins.shapiq import ShapiqEstimator


@hookimpl
def shapcut_register_postprocessors(register: Register) -> None:
    """Offer the first-party steps."""
    register("cast", Cast)
    register("compensate", Compensate)
    register("heal", Heal)
    for quantizer in (AutoGptq, BitsAndBytes, CompressedTensors, Gptq, TorchAO):
        register(quantizer.name, quantizer)


@hookimpl
def shapcut_register_estimators(register: Register) -> None:
    """Offer shapiq's approximators; the package is imported when one is asked for."""
    register(ShapiqEstimator.name, ShapiqEstimator)


@hookimpl
def shapcut_register_executors(register: Register) -> None:
    """Offer Ray; the package is imported when it is asked for."""
    register(RayExecutor.name, RayExecutor)


@hookimpl
def shapcut_register_commands(cli: typer.Typer, hook: pluggy.HookRelay) -> None:
    """Add ``shapcut report``."""
    cli.command("report")(report_command(hook))


@hookimpl
def shapcut_run_finished(run: Run, hook: pluggy.HookRelay) -> None:
    """Write the report, with the sections that other plugins add."""
    write_report(run, hook.shapcut_report_sections(run=run))


@hookimpl
def shapcut_comparison_finished(run: Run) -> None:
    """Write the comparison's page."""
    write_comparison(run)
