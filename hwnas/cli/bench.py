"""`hwnas bench …`: figures as ratios against a named baseline, taken in turns in the same run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hwnas.cli import (
    bench_baselines,
    bench_front,
    bench_predictor,
    bench_proxies,
    bench_search,
    bench_strategies,
    bench_supernet,
    bench_transfer,
    bench_workers,
)
from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    Measurements,
    TargetName,
    Threads,
    print_json,
    print_table,
)

app = typer.Typer(
    no_args_is_help=True, help="Measure hwnas itself, as ratios against a named baseline."
)


@app.callback()
def _bench() -> None:
    """Measure hwnas itself, as ratios against a named baseline."""


@app.command("cost")
def cost(
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    data: DataName = "digits",
    data_path: DataPath = None,
    genotypes: Annotated[
        int, typer.Option("--genotypes", min=1, help="Random genotypes a round.")
    ] = 100_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds, in turns.")] = 5,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Genotypes a second that the cached cost model predicts, on one core.

    Against exporting each network and asking the runtime for its kernels, the way without cache.

    Example: [bold]hwnas bench cost --json[/bold]
    """
    from hwnas.bench.cost import bench_cost

    record = bench_cost(
        space,
        data,
        data_path,
        n_genotypes=genotypes,
        n_rounds=rounds,
        measurements=measurements,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
    else:
        print_table("Cost model", ("", ""), list(record.items()))


@app.command("profiler")
def profiler(
    part: Annotated[
        str, typer.Option("--part", help="load, parts or peers; all of them if left out.")
    ] = "all",
    networks: Annotated[
        int, typer.Option("--networks", min=16, help="Networks of `parts`, over eight families.")
    ] = 60,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Repeats of `load` and, four times, of `peers`.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="For one measurement; 4 times if disturbed.")
    ] = 10.0,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """How far measured latencies can be trusted on this machine.

    load: ten kinds of networks, quiet and beside a busy loop on every core, in turns.
    parts: whether kernels and overhead add up to the whole, computed memory against measured.
    peers: spread of repeated answers against a plain mean and torch.utils.benchmark.

    Example: [bold]hwnas bench profiler --part load --json[/bold]
    """
    from hwnas.bench.profiler import bench_load, bench_parts, bench_peers
    from hwnas.errors import ConfigError
    from profilers.devices import this_device
    from profilers.errors import unknown_name
    from profilers.store import MeasurementStore
    from profilers.targets import make_target

    parts = ("load", "parts", "peers")
    if part not in (*parts, "all"):
        raise ConfigError(unknown_name("part", part, (*parts, "all")))
    chosen = parts if part == "all" else (part,)
    on = make_target(target, threads=threads)
    progress = ConsoleProgress()
    record: dict[str, Any] = {"target": on.describe(), "device": this_device().cpu}
    if "load" in chosen:
        record["load"] = bench_load(on, n_repeats=repeats, seconds=seconds, progress=progress)
    if "parts" in chosen:
        with MeasurementStore(measurements) as store:
            record["parts"] = bench_parts(
                on, n_networks=networks, seconds=seconds, progress=progress, store=store
            )
    if "peers" in chosen:
        record["peers"] = bench_peers(
            on, n_repeats=4 * repeats, seconds=min(seconds, 2.0), progress=progress
        )
    if as_json:
        print_json(record)
        return
    for name in chosen:
        rows = [(key, value) for key, value in record[name].items() if key != "networks"]
        print_table(f"Profiler: {name}", ("", ""), rows)


app.command("search")(bench_search.search)
app.command("front")(bench_front.front)
app.command("strategies")(bench_strategies.strategies)
app.command("supernet")(bench_supernet.supernet)
app.command("baselines")(bench_baselines.baselines)
app.command("transfer")(bench_transfer.transfer)
app.command("predictor")(bench_predictor.predictor)
app.command("proxies")(bench_proxies.proxies)
app.command("workers")(bench_workers.workers)
