"""The command line: arguments and printing only. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from hwnas.cli import (
    bench,
    dashboard,
    device,
    fit,
    predict,
    predictor_info,
    profile,
    report,
    search,
    space,
    tables,
    transfer,
)
from hwnas.errors import HwnasError, PredictorError, ProfilerError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, because typer would end without a word
            _fail("interrupted: what was done is kept, the same command goes on", 130)


app = typer.Typer(
    name="hwnas",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try: [bold]hwnas search --data digits --latency-ms 40% --out runs/demo[/bold]",
)
app.command("device")(device.device)
app.command("profile")(profile.profile)
app.command("table")(tables.table)
app.command("fit")(fit.fit)
app.command("predict")(predict.predict)
app.command("predictor")(predictor_info.predictor)
app.command("transfer")(transfer.transfer)
app.command("space")(space.space)
app.command("search")(search.search)
app.command("export")(search.export)
app.command("evaluate")(search.evaluate)
app.command("report")(report.report)
app.command("dashboard")(dashboard.dashboard)
app.add_typer(bench.app, name="bench")


def _version(value: bool) -> None:
    if value:
        from hwnas import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A device, a budget and data in; a verified Pareto front of ONNX models out."""


def main() -> None:
    """Run the command line; a user's mistake is one message and exit code 2."""
    debug = "--debug" in sys.argv
    try:
        app()
    except (HwnasError, PredictorError, ProfilerError) as error:
        if debug:
            raise
        _fail(f"error: {error}", 2)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)
