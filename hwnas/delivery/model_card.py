"""The card of a network of the front, for who is given its files: Markdown beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwnas.data.kinds import EXAMPLES
from hwnas.delivery.forms import Form
from hwnas.delivery.predict_script import USES
from hwnas.errors import RunFolderError
from hwnas.spaces.architecture import shape_text

MAX_CLASSES = 20  # that are listed


def write_model_card(
    about: Mapping[str, Any], forms: Sequence[Form], path: Path, *, why_not: Mapping[str, str]
) -> Path:
    """Write the card of the network that `about`, its model's metadata, describes.

    Args:
        about: See `hwnas.delivery.metadata.about_member`.
        forms: Its other forms.
        path: Of the card.
        why_not: Forms that are of no use on its target, and why.

    Raises:
        RunFolderError: It cannot be written.
    """
    try:
        path.write_text(model_card(about, forms, why_not=why_not), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def model_card(
    about: Mapping[str, Any], forms: Sequence[Form], *, why_not: Mapping[str, str]
) -> str:
    """The text of `write_model_card`."""
    sections = {
        "": _summary(about),
        "Accuracy": _accuracy(about["accuracy"]),
        "Latency": _latency(about),
        "Forms": _forms(about, forms, why_not),
        "Input": _input(about),
        "How to run": _how_to_run(about),
        "Limits": _limits(about),
        "Made with": [", ".join(f"{name} {v}" for name, v in about["versions"].items())],
    }
    title = f"# {_plain(about['name'])}"
    texts = [title]
    for heading, lines in sections.items():
        texts.append("\n".join([f"## {heading}\n", *lines] if heading else lines))
    return "\n\n".join(texts) + "\n"


def _summary(about: Mapping[str, Any]) -> list[str]:
    classes = [_plain(name) for name in about["classes"]]
    more = f" and {len(classes) - MAX_CLASSES} more" if len(classes) > MAX_CLASSES else ""
    kind = EXAMPLES[about["preprocessing"]["kind"]]
    operations = (
        f"{_count(about['macs'])} multiply-accumulates an example, {_count(about['params'])} "
        f"parameters"
    )
    if about["peak_memory_bytes"] is not None:
        operations += f", {_bytes(about['peak_memory_bytes'])} of tensors at most"
    start = about.get("started_from")
    training = [f"- Training: began with the weights of {_plain(start)}, grown"] if start else []
    return [
        f"A classifier of {kind}, found by a search for networks that are fast on one device.",
        "",
        f"- Data: {_plain(about['data'])}, {about['accuracy']['n_train']:,} examples to train on",
        f"- Classes: {', '.join(classes[:MAX_CLASSES])}{more}",
        f"- Size: {operations}",
        f"- Genotype: {', '.join(map(str, about['genotype'] or ())) or 'none'}",
        *training,
    ]


def _accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    return [
        "| split | examples | accuracy |",
        "| --- | --- | --- |",
        f"| validation (chose the network) | {accuracy['n_validation']:,} | "
        f"{_percent(accuracy['validation'])} |",
        f"| test (never used) | {accuracy['n_test']:,} | {_percent(accuracy['test'])} |",
    ]


def _latency(about: Mapping[str, Any]) -> list[str]:
    target, ms = about["target"], about["latency_ms"]
    threads = "1 thread" if target["threads"] == 1 else f"{target['threads']} threads"
    return [
        f"On {_plain(target['device_name'])} by {target['runtime']} {target['version']}, "
        f"{target['precision']}, {threads}, batch {target['batch']}:",
        "",
        f"- Measured: {_ms(ms['measured'], ms['measured_low'], ms['measured_high'])}",
        f"- Predicted before: {_ms(ms['predicted'], ms['predicted_low'], ms['predicted_high'])}",
    ]


def _forms(
    about: Mapping[str, Any], forms: Sequence[Form], why_not: Mapping[str, str]
) -> list[str]:
    difference = about["parity_max_abs_error"]
    lines = [f"The fp32 model's logits differ from PyTorch's by {difference:.1e} at most."]
    if forms:
        lines += [
            "",
            "| form | file | validation | test | latency | fp32 beside it | size | how | verdict |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
    for form in forms:
        cells = [
            form.form,
            form.onnx or "–",
            _percent(form.val_accuracy),
            _percent(form.test_accuracy),
            _ms(form.latency_ms, form.low_ms, form.high_ms),
            _ms(form.fp32_latency_ms),
            "–" if form.n_bytes is None else _bytes(form.n_bytes),
            form.how or "–",
            form.verdict,
        ]
        lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
    if why_not:
        reasons = [f"{form}: not on this target, {reason}" for form, reason in why_not.items()]
        lines += ["", *(f"- {reason}." for reason in reasons)]
    return lines


def _input(about: Mapping[str, Any]) -> list[str]:
    how, example = about["preprocessing"], about["example"]
    stored, taken = (tuple(shape) for shape in (example["shape"], how["input_shape"]))
    lines = [f"- Examples: {shape_text(stored)}, {example['type']}"]
    if taken != stored:
        lines.append(f"- Resized to {shape_text(taken)}: bilinear, with a low-pass filter")
    if how.get("mean"):
        scaled = "bytes over 255, " if example["type"] == "uint8" else ""
        lines.append(
            f"- Standardised: {scaled}minus the mean, over the deviation of each channel or "
            f"feature of the training split (in the model's metadata)"
        )
    if how.get("words"):
        lines.append(f"- Texts as ids of {len(how['words']):,} words (in the model's metadata)")
    return lines


def _how_to_run(about: Mapping[str, Any]) -> list[str]:
    kind = about["preprocessing"]["kind"]
    use, also = USES[kind], " (and pillow, but for .npy files)" if kind == "image" else ""
    return [
        f"With numpy and onnxruntime{also}, in the run folder:",
        "",
        f"    python predict.py front/{about['name']}.onnx {use}",
    ]


def _limits(about: Mapping[str, Any]) -> list[str]:
    n = about["accuracy"]["n_test"]
    return [
        f"- Accuracy is that on {n:,} examples like those of {_plain(about['data'])}; of other "
        f"data nothing is known, nor of classes that it does not list: one of them is always said.",
        "- Latency holds for this device, runtime version, precision, threads and batch.",
        "- Probabilities are not calibrated.",
    ]


def _plain(text: object) -> str:
    """Names and messages from elsewhere, so that they are no markup and stay on one line."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _ms(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return f"{value:.4g} ms{interval}"


def _count(value: int) -> str:
    return f"{value:,}"


def _bytes(value: int) -> str:
    return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"
