"""`hwnas predict`: the latency of a model that nobody has timed, and what would lower it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    Batch,
    ConsoleProgress,
    Measurements,
    Shapes,
    open_measurements,
    parse_shapes,
    print_json,
    print_table,
    write_text,
)
from hwnas.cli.predictor_choice import named_predictor, set_interval, shipped_predictor
from hwnas.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwnas.progress import Progress
    from hwnas.suggestions import Suggestion
    from predictors.energy import EnergyPredictor
    from predictors.explain import Explanation, Slice
    from predictors.network_latency import NetworkLatencyPredictor
    from profilers.isolation import IsolatedProfiler
    from profilers.onnx_models import OnnxModel
    from profilers.targets import Target

N_SHOWN = 12  # rows of a table on the terminal
SLOW_S = 0.25  # for one prediction: suggestions need several, and then progress is shown


def predict(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor",
            help="What `hwnas fit` wrote, or the name of one that ships; left out, the one that "
            "ships for this machine.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Runtime; onnxruntime-cpu if nothing says more.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads within one kernel.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Type of the activations.")
    ] = None,
    batch: Batch = None,
    shape: Shapes = None,
    level: Annotated[
        float | None,
        typer.Option(
            "--level",
            help="Share of networks that the interval is to cover; that of the fit if not given.",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            help="What it was drawn from: intervals are narrower for what was measured. Spaces are "
            "known by name and data (mobile-2f0c…); a wrong name lists what is known.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure the kernels that are not known; answer again."),
    ] = False,
    measure_seconds: Annotated[
        float, typer.Option("--measure-seconds", min=1.0, help="At most, for --measure.")
    ] = 60.0,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    suggest: Annotated[
        int, typer.Option("--suggest", min=0, help="Changes to propose that would make it faster.")
    ] = 3,
    suggestions_folder: Annotated[
        Path | None,
        typer.Option("--suggestions-folder", help="Write the changed models, to be measured."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page that shows where the time goes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the latency of a model without timing it, and say how far the answer can be trusted.

    Examples:

    [bold]hwnas predict model.onnx[/bold]

    [bold]hwnas predict model.onnx --predictor predictor.npz --measure --html model.html[/bold]
    """
    from hwnas.suggestions import as_measured
    from profilers.isolation import IsolatedProfiler
    from profilers.onnx_models import check_batch, load_model

    if suggestions_folder is not None and not suggest:
        raise typer.BadParameter("is not used with --suggest 0", param_hint="--suggestions-folder")
    if level is not None and not 0 < level < 1:
        raise typer.BadParameter(f"{level} is not between 0 and 1", param_hint="--level")
    clock = _Clock()
    progress = ConsoleProgress()
    if predictor is not None:
        fitted, here, note = named_predictor(predictor, target, threads, precision)
    loaded = load_model(model, batch=batch, shapes=parse_shapes(shape))
    if predictor is None:
        fitted, here, note = shipped_predictor(
            target or "onnxruntime-cpu", threads or 1, precision or "fp32", batch or 1
        )
    notes = [note] if note else []
    there = fitted.target_
    assert there is not None
    if batch is not None:
        check_batch(loaded, there.batch)
    elif loaded.batch != there.batch:  # maybe no batch at all: time may come first, or channels
        notes.append(
            f"the first axis of {loaded.name} is {loaded.batch} long, the predictor's networks "
            f"took batches of {there.batch}: this is the latency of one run"
        )
    if family is None and not fitted.latency.knows_others_:
        notes.append(
            "networks of one kind were measured: of others the interval says little "
            "(hwnas profile survey, then hwnas fit)"
        )
    note = "; ".join(notes)
    set_interval(fitted, level, family)
    clock.lap("load")
    if measure and here.key != there.key:
        raise typer.BadParameter(
            f"the predictor is of another target than can be measured here: {there.describe()}",
            param_hint="--measure",
        )
    with IsolatedProfiler(here) as profiler:  # a model may take the process down that loads it
        answer = _Answer(loaded, here, fitted.latency, fitted.energy, profiler, family or "")
        clock.lap("predict")
        first = answer
        if measure:
            latency = _measured(answer, measure_seconds, measurements, progress)
            fitted = replace(fitted, latency=latency)
            answer = _Answer(loaded, here, fitted.latency, fitted.energy, profiler, family or "")
            clock.lap("measure")
        is_slow = clock.seconds["predict"] > SLOW_S
        suggestions = _suggestions(first, suggest, progress if is_slow else Silent())
        if measure:
            suggestions = as_measured(suggestions, answer.explanation)
        clock.lap("suggest")
    paths = _write_models(suggestions, suggestions_folder)
    record = {
        "model": str(model),
        "target": there.to_dict(),
        "note": note or None,
        "level": fitted.level,
        **answer.record(),
        "before_measuring": _interval(first.explanation) if measure else None,
        "suggestions": [
            _suggestion_record(s, path) for s, path in zip(suggestions, paths, strict=True)
        ],
        "seconds": clock.seconds,
    }
    if html is not None:
        from hwnas.predict_page import predict_page

        write_text(html, predict_page(
            loaded.name, there, fitted.level, answer.explanation, blocks=answer.blocks,
            kinds=answer.kinds, peak_memory_bytes=answer.peak_memory_bytes,
            energy_mj=answer.energy_mj,
            suggestions=suggestions, note=note,
        ))  # fmt: skip
        progress.say(f"wrote {html}")
    if as_json:
        print_json(record)
        return
    _show(answer, fitted.level, note, first.explanation if measure else None)
    _show_suggestions(suggestions, paths)


class _Clock:
    """Seconds of each stage, by name."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 3), now


class _Answer:
    """The prediction of one model, and its parts.

    Args:
        model: What is asked about.
        here: The target whose runtime says what kernels there are.
        predictor: What predicts, for its own target.
        energy: What predicts energies there; None: they were not measured.
        profiler: Of `here`.
        family: What kind of network it is; empty: not told.
    """

    def __init__(
        self,
        model: OnnxModel,
        here: Target,
        predictor: NetworkLatencyPredictor,
        energy: EnergyPredictor | None,
        profiler: IsolatedProfiler,
        family: str,
    ) -> None:
        from hwnas.block_names import blocks_of
        from hwnas.profile_parts import kind_of
        from predictors.explain import explain, slices
        from profilers.memory import computed_peak_bytes
        from profilers.runtimes.catalog import runtime_spec

        assert predictor.target_ is not None
        self.model, self.predictor, self.profiler = model, predictor, profiler
        self.there, self.family = predictor.target_, family
        nodes = profiler.kernels(model)
        self.explanation: Explanation = explain(predictor, nodes, family=family)
        self.blocks = _ranked(slices(self.explanation, blocks_of(model, nodes)))
        self.kinds = _ranked(slices(self.explanation, [kind_of(node.kernel) for node in nodes]))
        self.energy_mj: tuple[float, float, float] | None = None  # and its interval
        if energy is not None:
            kernels = [node.kernel for node in nodes]
            said = energy.predict(predictor.predict([kernels], family=family), [kernels])
            self.energy_mj = (
                float(said.energy_mj[0]), float(said.low_mj[0]), float(said.high_mj[0])
            )  # fmt: skip
        # The rules are those of ONNX Runtime's allocator for the CPU.
        self.peak_memory_bytes = (
            computed_peak_bytes(nodes, model, threads=self.there.threads)
            if runtime_spec(here.runtime).provider == "CPUExecutionProvider"
            else None
        )

    def record(self) -> dict[str, Any]:
        """As plain data."""
        explanation = self.explanation
        return {
            **_interval(explanation),
            "n_kernels": len(explanation.kernels),
            "kernel_sum_ms": explanation.kernel_sum_ms,
            "overhead_ms": explanation.overhead_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "energy_mj": self.energy_mj
            and dict(zip(("expected", "low", "high"), self.energy_mj, strict=True)),
            "blocks": [_slice_record(part) for part in self.blocks],
            "kinds": [_slice_record(part) for part in self.kinds],
            "unknown_kernels": [
                {"kernel": kernel.describe(), "predicted_ms": ms}
                for kernel, ms in explanation.unknown_ms.items()
            ],
        }


def _measured(
    answer: _Answer, seconds: float, measurements: Path, progress: ConsoleProgress
) -> NetworkLatencyPredictor:
    """The predictor, with what was measured of the kernels that it did not know."""
    from hwnas.measure_unknown import measure_unknown
    from profilers.isolation import IsolatedProfiler

    target = answer.there
    kernels = [found.node.kernel for found in answer.explanation.kernels]
    with (
        open_measurements(measurements, progress) as store,
        IsolatedProfiler(target, references_ms=store.references_ms(target)) as profiler,
    ):
        return measure_unknown(
            answer.model, kernels, answer.predictor, profiler,
            seconds=seconds, store=store, progress=progress,
        )  # fmt: skip


def _suggestions(answer: _Answer, n: int, progress: Progress) -> list[Suggestion]:
    if not n or not answer.explanation.kernels:
        return []
    from hwnas.suggestions import suggest

    with progress.task("looking for what would make it faster", None) as task:
        return suggest(
            answer.model, answer.explanation, answer.predictor, answer.profiler, n=n,
            family=answer.family, on_edit=task.update,
        )  # fmt: skip


def _write_models(suggestions: Sequence[Suggestion], folder: Path | None) -> list[str | None]:
    """Write the changed models; the path of each, None where no folder was asked for.

    Raises:
        RunFolderError: They cannot be written.
    """
    if folder is None:
        return [None] * len(suggestions)
    import onnx

    from hwnas.errors import RunFolderError

    paths: list[str | None] = []
    for suggestion in suggestions:
        path = folder / f"{suggestion.edit.model.name}.onnx"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            onnx.save(suggestion.edit.model.proto, path)
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
        paths.append(str(path))
    return paths


def _ranked(found: Sequence[Slice]) -> list[Slice]:
    return sorted(found, key=lambda part: -part.latency_ms)


def _interval(explanation: Explanation) -> dict[str, float]:
    return {
        "latency_ms": explanation.latency_ms,
        "low_ms": explanation.low_ms,
        "high_ms": explanation.high_ms,
        "known_share": explanation.known_share,
    }


def _slice_record(part: Slice) -> dict[str, Any]:
    return {
        "name": part.name,
        "n_kernels": part.n_kernels,
        "predicted_ms": part.latency_ms,
        "share": part.share,
        "known_share": part.known_share,
    }


def _suggestion_record(suggestion: Suggestion, path: str | None) -> dict[str, Any]:
    return {
        "kind": suggestion.edit.kind,
        "change": suggestion.edit.what,
        "needs_training": suggestion.edit.needs_training,
        "before_ms": suggestion.before.latency_ms,
        **_interval(suggestion.after),
        "saving_ms": suggestion.saving_ms,
        "saving": suggestion.saving,
        "model": path,
    }


def _show(answer: _Answer, level: float, note: str, before: Explanation | None) -> None:
    explanation = answer.explanation
    if before is not None:
        typer.echo(f"before measuring: {_sentence(before, level)}")
    typer.echo(f"{answer.model.name} on {answer.there.describe()}: {_sentence(explanation, level)}")
    if note:
        typer.echo(f"note: {note}")
    memory = answer.peak_memory_bytes
    if memory is not None:
        typer.echo(f"peak memory of tensors: {memory:,} bytes, computed")
    if answer.energy_mj is not None:
        expected, low, high = answer.energy_mj
        typer.echo(
            f"energy {expected:.4g} mJ, {100 * level:g} % interval {low:.4g} to {high:.4g} mJ"
        )
    for title, parts in (("block", answer.blocks), ("kind", answer.kinds)):
        if len(parts) > 1:
            print_table(
                f"Where the time goes, by {title}",
                (title, "kernels", "predicted ms", "share %", "known %"),
                [(p.name, p.n_kernels, p.latency_ms, f"{100 * p.share:.1f}",
                  f"{100 * p.known_share:.0f}")
                 for p in parts[:N_SHOWN]],
            )  # fmt: skip
    if explanation.unknown_ms:
        print_table(
            "Kernels not like any that was measured (--measure measures them)",
            ("kernel", "predicted ms"),
            [(k.describe(), ms) for k, ms in list(explanation.unknown_ms.items())[:N_SHOWN]],
        )


def _sentence(explanation: Explanation, level: float) -> str:
    return (
        f"{explanation.latency_ms:.4g} ms, {100 * level:g} % interval {explanation.low_ms:.4g} to "
        f"{explanation.high_ms:.4g} ms, {100 * explanation.known_share:.0f} % of it rests on "
        f"kernels like those measured"
    )


def _show_suggestions(suggestions: Sequence[Suggestion], paths: Sequence[str | None]) -> None:
    if not suggestions:
        return
    print_table(
        "What would make it faster (predicted)",
        ("change", "ms", "instead of", "saves %", "then"),
        [(s.edit.what, s.after.latency_ms, s.before.latency_ms, f"{100 * s.saving:.1f}",
          "train again" if s.edit.needs_training else "computes the same")
         for s in suggestions],
    )  # fmt: skip
    for path in filter(None, paths):
        typer.echo(f"wrote {path}")
