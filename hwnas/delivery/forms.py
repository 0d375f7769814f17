"""What a form of a network is, its verdict, and the tables that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from hwnas.errors import RunFolderError

INT8, FP16, BF16, DYNAMIC_BATCH, RAW = "int8", "fp16", "bf16", "dynamic-batch", "raw"
FORMS_CSV = "forms.csv"
OK = "ok"
# What speaks against a form, in the words of verdicts.
DROPS, NOT_MEASURED = "accuracy drops by", "not measured"
NOT_FASTER, OVER_BUDGET = "not faster than fp32", "over the budget"
ROUNDING = 1e-9  # of differences of shares
MAX_DROP = 0.01  # of the accuracy that fp32 has; what drops more is flagged
# What `front.csv` and `candidates.csv` say of the INT8 form, behind `int8_`.
INT8_COLUMNS = ("onnx", "val_accuracy", "test_accuracy", "latency_ms", "verdict")


@dataclass(frozen=True)
class FormOptions:
    """Which forms are made of every network on the front.

    Attributes:
        int8: Quantized, where the target computes in INT8.
        fp16: In 16 bits, where the target takes such files.
        bf16: The fp32 file computed in bfloat16, where that is a setting of the target's runtime.
        dynamic_batch: For any number of examples at once.
        raw_input: Of every form another one, with the preprocessing as a part of the model.
    """

    int8: bool = True
    fp16: bool = True
    bf16: bool = True
    dynamic_batch: bool = False
    raw_input: bool = False


@dataclass(frozen=True)
class Form:
    """One more file of a network, or way to run it. Fields are the columns of `forms.csv`.

    Attributes:
        name: Of the network.
        form: `int8`, `fp16`, `bf16`, `dynamic-batch`, or one of the files and `raw`, such as
            `int8.raw`.
        onnx: Path of the model, relative to the run folder; None: it could not be made.
        how: What was done, in words.
        val_accuracy: On the validation split, of ONNX Runtime on this machine (bf16: of the
            target); chooses among ways to make it.
        test_accuracy: On the test split, likewise; reported, never used.
        latency_ms: Measured on the target in turns with the fp32 form; None: not measured.
        low_ms: Lower end of its interval.
        high_ms: Upper end of its interval.
        fp32_latency_ms: Of the fp32 form in the same rounds.
        n_bytes: Of the file.
        max_abs_error: Largest difference of its logits from the fp32 form's, on some examples.
        verdict: `ok`, or what speaks against it.
    """

    name: str
    form: str
    onnx: str | None = None
    how: str = ""
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    fp32_latency_ms: float | None = None
    n_bytes: int | None = None
    max_abs_error: float | None = None
    verdict: str = OK


def verdict_of(
    form: Form, *, val_accuracy: float, test_accuracy: float, limit_ms: float | None = None
) -> str:
    """What speaks against a form of a network whose fp32 form has these accuracies; or `ok`.

    If its interval ends above `limit_ms`, the latency that the run allows, it does not meet the
    budget; other budgets are those of the member that it is a form of, and not looked at.
    A form in lower precision has to be faster than fp32. Test accuracy is looked at, too: nothing
    is chosen by it, but who reads the verdict is to know.
    """
    found = []
    drops = {
        "validation": (val_accuracy, form.val_accuracy),
        "test": (test_accuracy, form.test_accuracy),
    }
    for split, (before, after) in drops.items():
        if after is not None and before - after > MAX_DROP + ROUNDING:
            found.append(f"{split} {DROPS} {100 * (before - after):.1f} points")
    if form.latency_ms is None or form.fp32_latency_ms is None:
        found.append(NOT_MEASURED)
    elif form.form.startswith((INT8, FP16, BF16)) and form.latency_ms >= form.fp32_latency_ms:
        found.append(f"{NOT_FASTER} ({form.latency_ms:.4g} ms against {form.fp32_latency_ms:.4g})")
    if limit_ms is not None and form.latency_ms is not None:
        high_ms = max(form.latency_ms, form.high_ms or 0.0)
        if high_ms > limit_ms:
            found.append(f"{OVER_BUDGET} (up to {high_ms:.4g} ms, {limit_ms:.4g} are allowed)")
    return "; ".join(found) or OK


def write_forms(forms: Sequence[Form], folder: Path) -> None:
    """Write `forms.csv`, and what concerns INT8 into `front.csv` and `candidates.csv`.

    Raises:
        RunFolderError: They cannot be read or written.
    """
    table = pd.DataFrame([asdict(form) for form in forms], columns=list(Form.__dataclass_fields__))
    twins = {form.name: asdict(form) for form in forms if form.form == INT8}
    try:
        _write(table, folder / FORMS_CSV)
        for name in ("front.csv", "candidates.csv"):
            # As text: what is not changed stays as it is, digit by digit.
            networks = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
            for column in INT8_COLUMNS:
                values = [twins.get(of, {}).get(column) for of in networks["name"]]
                networks[f"{INT8}_{column}"] = values
            _write(networks, folder / name)
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"cannot write the forms of networks to {folder}: {error}") from None


def _write(table: pd.DataFrame, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    table.to_csv(part, index=False)
    part.replace(path)
