"""Measuring campaigns on the command line: of `space:NAME` and `survey`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hwnas.cli.output import ConsoleProgress, open_measurements, print_json, print_table

if TYPE_CHECKING:
    from hwnas.campaign_report import CampaignReport
    from hwnas.spaces.base import SearchSpace
    from profilers.measurement import NetworkMeasurement
    from profilers.targets import Target

N_NETWORKS, N_SURVEYED = 80, 200  # if nothing is said


def load_space(name: str, data: str, data_path: Path | None) -> SearchSpace:
    """The space of that name for the data."""
    from hwnas.data import load_data
    from hwnas.spaces.for_data import space_for

    return space_for(name, load_data(data, path=data_path))


def measure_space(
    space: SearchSpace,
    target: Target,
    networks: int | None,
    minutes: float | None,
    seconds: float | None,
    seed: int,
    measurements: Path,
    as_json: bool,
) -> None:
    """Measure a space until so many networks are known or the time is over, and show it."""
    from hwnas.campaign_report import CampaignReport
    from hwnas.profiling import SECONDS_PER_NETWORK, profile_space
    from profilers.measurement import SPACE_TAG

    if networks is None and minutes is None:
        networks = N_NETWORKS
    progress = ConsoleProgress()
    report = CampaignReport()
    with open_measurements(measurements, progress) as store:
        found = profile_space(
            space,
            target,
            store,
            n_networks=networks,
            minutes=minutes,
            seconds=seconds or SECONDS_PER_NETWORK,
            seed=seed,
            progress=progress,
            report=report,
        )
    of_space = [m for m in found if m.tags.get(SPACE_TAG) == space.key]
    _show_campaign({"space": space.name}, of_space, target, measurements, report, as_json)


def measure_survey(
    target: Target,
    networks: int | None,
    minutes: float | None,
    seconds: float | None,
    seed: int,
    measurements: Path,
    as_json: bool,
) -> None:
    """The same on random networks of all kinds."""
    from hwnas.campaign_report import CampaignReport
    from hwnas.survey import SECONDS_PER_NETWORK, is_surveyed, profile_survey

    if networks is None and minutes is None:
        networks = N_SURVEYED
    progress = ConsoleProgress()
    report = CampaignReport()
    with open_measurements(measurements, progress) as store:
        found = profile_survey(
            target,
            store,
            n_networks=networks,
            minutes=minutes,
            seconds=seconds or SECONDS_PER_NETWORK,
            seed=seed,
            progress=progress,
            report=report,
        )
    surveyed = [m for m in found if is_surveyed(m)]
    _show_campaign({}, surveyed, target, measurements, report, as_json)


def _show_campaign(
    named: dict[str, str],
    found: list[NetworkMeasurement],
    target: Target,
    measurements: Path,
    report: CampaignReport,
    as_json: bool,
) -> None:
    """Say what was found; `named` says of which space, if of one."""
    kernels = {run.kernel.key for m in found for run in m.kernels}
    latencies = sorted(m.latency_ms for m in found)
    record: dict[str, Any] = {
        **named,
        "target": target.to_dict(),
        "measurements": str(measurements),
        "n_networks": len(found),
        "n_measured_now": report.n_measured,
        "n_failed": report.n_failed,
        "n_kernels": len(kernels),
        "n_kernels_measured_alone": report.n_isolated,
        "fastest_ms": latencies[0],
        "median_ms": latencies[len(latencies) // 2],
        "slowest_ms": latencies[-1],
        "seconds": {stage: round(spent, 1) for stage, spent in report.seconds.items()},
    }
    if as_json:
        print_json(record)
        return
    title = f"space:{named['space']}" if named else "survey"
    print_table(
        f"{title} on {target.describe()}",
        ("", ""),
        [(k, v) for k, v in record.items() if k not in ("space", "target", "seconds")],
    )
    typer.echo(report.describe())
    typer.echo(f"Next: hwnas fit --measurements {measurements} --out predictor.npz")
