"""Registration of the bundled steps, executors and reports."""

from typing import TYPE_CHECKING

from shapcut.contracts import Register, hookimpl

if TYPE_CHECKING:
    import click
    import pluggy

    from shapcut.contracts import Run


@hookimpl
def shapcut_register_postprocessors(register: Register) -> None:
    """Offer the first-party steps."""
    register("cast", "shapcut_plugins.cast:Cast")
    register("compensate", "shapcut_plugins.compensate.step:Compensate")
    register("heal", "shapcut_plugins.heal.step:Heal")
    register("laco", "shapcut_plugins.mend_baselines.laco:LaCo")
    register("linear-patch", "shapcut_plugins.mend_baselines.linear_patch:LinearPatch")
    register("prune-and-comp", "shapcut_plugins.mend_baselines.prune_and_comp:PruneAndComp")
    register("replace-me", "shapcut_plugins.mend_baselines.replace_me:ReplaceMe")
    register("gguf", "shapcut_plugins.gguf.step:Gguf")
    register("auto-gptq", "shapcut_plugins.quantize.auto_gptq:AutoGptq")
    register("bitsandbytes", "shapcut_plugins.quantize.bitsandbytes:BitsAndBytes")
    register("compressed-tensors", "shapcut_plugins.quantize.compressed_tensors:CompressedTensors")
    register("gptq", "shapcut_plugins.quantize.gptq:Gptq")
    register("torchao", "shapcut_plugins.quantize.torchao:TorchAO")


@hookimpl
def shapcut_register_estimators(register: Register) -> None:
    """Offer shapiq's approximators."""
    register("shapiq", "shapcut_plugins.shapiq:ShapiqEstimator")


@hookimpl
def shapcut_register_executors(register: Register) -> None:
    """Offer Ray."""
    register("ray", "shapcut_plugins.executors.ray:RayExecutor")


@hookimpl
def shapcut_register_commands(cli: "click.Group", hook: "pluggy.HookRelay") -> None:
    """Add ``shapcut report``."""
    from shapcut_plugins.report.command import add_report_command  # noqa: PLC0415 - needs click

    add_report_command(cli, hook)


@hookimpl
def shapcut_run_finished(run: "Run", hook: "pluggy.HookRelay") -> None:
    """Write the report, with the sections that other plugins add, and tell the trackers."""
    from shapcut_plugins.report.report import write_report  # noqa: PLC0415 - slow to import
    from shapcut_plugins.trackers import track  # noqa: PLC0415 - as above

    write_report(run, hook.shapcut_report_sections(run=run))
    track(run)


@hookimpl
def shapcut_serving_checked(run: "Run", hook: "pluggy.HookRelay") -> None:
    """Write the report again if there is one."""
    from shapcut_plugins.report.report import write_report  # noqa: PLC0415 - slow to import

    if run.report.is_file():
        write_report(run, hook.shapcut_report_sections(run=run))


@hookimpl
def shapcut_comparison_finished(run: "Run") -> None:
    """Write the comparison's page."""
    from shapcut_plugins.report.comparison_page import write_comparison  # noqa: PLC0415 - slow to import

    write_comparison(run)
