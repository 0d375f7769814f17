"""Deliver the front: forms of its members, what they say of themselves, cards, and `predict.py`.

A form that cannot be made ends no run: that is said, and a row of `forms.csv` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from hwnas.data import DataSet
from hwnas.delivery.forms import (
    BF16,
    DYNAMIC_BATCH,
    FP16,
    INT8,
    RAW,
    Form,
    FormOptions,
    verdict_of,
    write_forms,
)
from hwnas.delivery.half import bf16_figures, why_no_bf16, why_no_fp16
from hwnas.delivery.int8 import Twin, why_no_int8
from hwnas.delivery.making import FORMS, Maker
from hwnas.delivery.metadata import about_form, about_member, figures_of, read_about, save_about
from hwnas.delivery.model_card import write_model_card
from hwnas.delivery.predict_script import write_predict_script
from hwnas.errors import ConfigError, ExportMismatchError
from hwnas.evaluation import evaluate_onnx
from hwnas.front.sittings import time_each
from hwnas.front.verify import Candidate, Trained
from hwnas.progress import Progress, Silent, Task
from hwnas.target_place import OpenProfiler
from profilers.errors import ModelError, TargetError
from profilers.isolation import AnyProfiler, IsolatedProfiler
from profilers.onnx_models import OnnxModel, load_model, make_model
from profilers.runtimes.catalog import runtime_spec
from profilers.targets import Target, make_target

SECONDS_LATENCY, SECONDS_CHOICE = 1.0, 0.5


def deliver_forms(
    front: Sequence[Candidate],
    trained: Sequence[Trained],
    data: DataSet,
    target: Target,
    folder: Path,
    options: FormOptions = FormOptions(),  # noqa: B008  (it is frozen)
    *,
    limit_ms: float | None = None,
    open_in: Callable[[str], OpenProfiler] | None = None,
    progress: Progress | None = None,
) -> list[Form]:
    """Make other forms of the networks on the front, and write down what each network is.

    Written are the metadata of the models, `forms/`, `forms.csv`, the columns `int8_*` of
    `front.csv` and `candidates.csv`, a card beside each model of the front, and `predict.py`.
    Called again, it keeps the forms, and their figures, whose network is still the same.

    Args:
        front: Its members; their models lie in the run folder.
        trained: The networks, those of the members among them.
        data: That they were trained on; calibration takes its training split.
        target: That they were measured on.
        folder: The run folder.
        options: Which forms to make.
        limit_ms: Latency that the run allows; None: any.
        open_in: What opens a profiler of the target in a precision, `fp32` for files that are in
            the precision they are to run in; raises TargetError where its processor has none. None:
            processes of this machine.
        progress: Where progress is shown.

    Returns:
        All forms, in the order of the members; also those that could not be made.

    Raises:
        RunFolderError: The run folder cannot be written.
    """
    progress = progress or Silent()
    networks = {item.name: item for item in trained}
    forms: list[Form] = []
    open_in = open_in or partial(_open_here, target)
    why_not = _why_not(target)
    with ExitStack() as stack, progress.task("delivering", len(front)) as task:
        profiler = stack.enter_context(open_in("fp32")())
        bf16 = None
        if options.bf16 and BF16 not in why_not:
            try:
                bf16 = stack.enter_context(open_in("bf16")())
            except TargetError as error:
                why_not[BF16] = str(error)
        for i, member in enumerate(front):
            parent = folder / member.onnx
            about = read_about(parent) | about_member(member, data)
            save_about(onnx.load(parent), parent, about)
            one = _Member(
                member, networks[member.name], data, target, folder, limit_ms, profiler, bf16
            )
            made = one.forms(options, why_not, partial(_note, task, i))
            for form in made:
                if form.onnx is None:
                    progress.say(f"{form.name} has no {form.form} form: {form.verdict}")
            write_model_card(about, made, parent.with_suffix(".md"), why_not=why_not)
            forms += made
            task.update(i + 1, note=member.name)
    kept = {folder / form.onnx for form in forms if form.onnx}
    for path in (folder / FORMS).glob("*"):
        if path not in kept:
            path.unlink(missing_ok=True)
    write_forms(forms, folder)
    write_predict_script(data.kind, folder)
    return forms


def _note(task: Task, done: int, note: str) -> None:
    task.update(done, note=note)


def check_deliverable(target: Target) -> None:
    """Make sure that a search for a target delivers files that run there as they were measured.

    Raises:
        ConfigError: The runtime converts models to the precision before it runs them; accuracies
            would be those of fp32 files, and latencies of others.
    """
    is_onnx_runtime = target.runtime.startswith("onnxruntime")
    if target.precision == INT8 or (target.precision == FP16 and is_onnx_runtime):
        raise ConfigError(
            f"a search cannot be for {target.precision} on {target.runtime}: models would be "
            f"converted to be measured, and delivered in fp32. Search in fp32: each member of the "
            f"front is delivered in {target.precision} as well, with its own accuracy and latency"
        )


def _open_here(target: Target, precision: str) -> OpenProfiler:
    if precision != "fp32":  # is it in the processor?
        options = {"threads": target.threads, "batch": target.batch}
        make_target(target.runtime, precision=precision, **options)
    return partial(IsolatedProfiler, replace(target, precision=precision))


def _why_not(target: Target) -> dict[str, str]:
    """Precisions that are of no use on the target, and why."""
    whys = {INT8: why_no_int8, FP16: why_no_fp16, BF16: why_no_bf16}
    reasons = {form: why(target) for form, why in whys.items()}
    return {form: reason for form, reason in reasons.items() if reason is not None}


class _Member:
    """One network of the front, while its forms are made."""

    def __init__(
        self,
        candidate: Candidate,
        trained: Trained,
        data: DataSet,
        target: Target,
        folder: Path,
        limit_ms: float | None,
        profiler: AnyProfiler,
        bf16: AnyProfiler | None,
    ) -> None:
        self._candidate = candidate
        self._data = data
        self._target = target
        self._folder = folder
        self._limit_ms = limit_ms
        self._profiler = profiler
        self._bf16 = bf16
        self._maker = Maker(trained, folder / candidate.onnx, data, folder)

    def forms(
        self, options: FormOptions, why_not: Mapping[str, str], note: Callable[[str], None]
    ) -> list[Form]:
        """All that are asked for and of use on the target."""
        made: dict[str, Path] = {}
        failed: dict[str, str] = {}

        def attempt(form: str, make: Callable[[], Path]) -> None:
            note(f"{self._candidate.name}, {form}")
            try:
                made[form] = make()
            except (ExportMismatchError, ModelError, OSError, ValueError, RuntimeError) as error:
                failed[form] = str(error)  # the last ones are the exporter's

        if options.int8 and INT8 not in why_not:
            attempt(INT8, self._int8)
        if options.fp16 and FP16 not in why_not:
            attempt(FP16, self._maker.fp16)
        if options.dynamic_batch:
            attempt(DYNAMIC_BATCH, self._maker.dynamic_batch)
        if options.raw_input:
            bases = dict(made)
            attempt(RAW, self._maker.raw)
            for form, base in bases.items() if RAW in made else ():
                attempt(f"{form}.{RAW}", partial(self._maker.raw, base, form))
        note(f"{self._candidate.name}, measuring")
        forms = self._judged(made)
        name = self._candidate.name
        if self._bf16 is not None:
            note(f"{name}, {BF16}")
            try:
                forms.append(self._in_bf16(self._bf16))
            except (ModelError, TargetError) as error:  # the latter: its process cannot start
                failed[BF16] = str(error)
        return forms + [Form(name, form, verdict=reason) for form, reason in failed.items()]

    def _int8(self) -> Path:
        accelerator = runtime_spec(self._target.runtime).accelerator
        return self._maker.int8(
            self._candidate.val_accuracy, self._fastest, symmetric=accelerator is not None
        )

    def _fastest(self, twins: list[Twin]) -> Twin:
        """Of quantized networks that are equally good."""
        models = [make_model(twin.proto, name=f"twin{i}") for i, twin in enumerate(twins)]
        found = time_each(models, self._profiler, seconds=SECONDS_CHOICE)
        failures = [samples for samples in found if isinstance(samples, ModelError)]
        if len(failures) == len(twins):
            raise failures[0]
        ms = [math.inf if isinstance(s, ModelError) else s.latency_ms for s in found]
        return twins[ms.index(min(ms))]

    def _judged(self, made: dict[str, Path]) -> list[Form]:
        """The forms; those without figures are scored, and measured in turns with the fp32 form."""
        batch = self._target.batch
        found = {name: self._known(name, path) for name, path in made.items()}
        new = {name: path for name, path in made.items() if found[name].latency_ms is None}
        parent = load_model(self._maker.parent, batch=batch)
        models = [load_model(path, batch=batch) for path in new.values()]
        for (name, path), times in zip(new.items(), self._timed(parent, models), strict=True):
            form = replace(
                found[name],
                val_accuracy=evaluate_onnx(path, self._data, split="validation").accuracy,
                test_accuracy=evaluate_onnx(path, self._data, split="test").accuracy,
                max_abs_error=self._maker.difference(path),
                **times,
            )
            save_about(onnx.load(path), path, read_about(path) | about_form(form, self._data))
            found[name] = replace(form, n_bytes=path.stat().st_size)
        return [self._with_verdict(form) for form in found.values()]

    def _in_bf16(self, bf16: AnyProfiler) -> Form:
        """The fp32 file, run in another way; its figures are in the file."""
        path = self._maker.parent
        how = f"the fp32 file, computed in bf16 by {self._target.runtime}"
        form = Form(self._candidate.name, BF16, self._candidate.onnx, how)
        about = read_about(path)
        if BF16 not in about:
            found = bf16_figures(
                load_model(path, batch=self._target.batch),
                self._data,
                self._profiler,
                bf16,
                expected=self._maker.logits,
                seconds=SECONDS_LATENCY,
            )
            about[BF16] = about_form(replace(form, **found), self._data) | {"how": how}
            save_about(onnx.load(path), path, about)
        form = replace(form, **figures_of(about[BF16]), n_bytes=path.stat().st_size)
        return self._with_verdict(form)

    def _with_verdict(self, form: Form) -> Form:
        candidate = self._candidate
        verdict = verdict_of(
            form,
            val_accuracy=candidate.val_accuracy,
            test_accuracy=candidate.test_accuracy,
            limit_ms=self._limit_ms,
        )
        return replace(form, verdict=verdict)

    def _known(self, name: str, path: Path) -> Form:
        """A form with the figures that an earlier call found."""
        form = Form(
            self._candidate.name,
            name,
            path.relative_to(self._folder).as_posix(),
            n_bytes=path.stat().st_size,
        )
        return replace(form, **figures_of(read_about(path)))

    def _timed(self, parent: OnnxModel, models: Sequence[OnnxModel]) -> list[dict[str, Any]]:
        """Latencies of models that take turns with the fp32 one, as a `Form` has them.

        What the target cannot run has none, and does not keep others from theirs.
        """
        if not models:
            return []
        try:
            beside, *samples = self._profiler.latency([parent, *models], seconds=SECONDS_LATENCY)
        except ModelError:
            if len(models) == 1:
                return [{}]
            return [times for model in models for times in self._timed(parent, [model])]
        found = []
        for of_one in samples:
            times = {"latency_ms": of_one.latency_ms, "fp32_latency_ms": beside.latency_ms}
            low, high = of_one.interval_ms
            if math.isfinite(high):  # of few samples there is none
                times |= {"low_ms": low, "high_ms": high}
            found.append(times)
        return found
