"""Files that were saved once must load, and predict the same, with every later version.

`HWNAS_REWRITE_GOLDEN=1 python -m pytest tests/predictors/test_golden_files.py` writes them anew:
only where a format or what stands in it had to change, and its version with it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from predictors.architectures import ArchitectureFeatures
from predictors.files import describe_predictor, load_predictor, save_predictor
from predictors.network_latency import NetworkLatencyPredictor
from predictors.transfer import DeviceSample, TransferPredictor

GOLDEN = Path(__file__).parent / "golden"
REWRITE = os.environ.get("HWNAS_REWRITE_GOLDEN") == "1"
MAX_BYTES = 150_000
# Sums are in another order on another processor; exponentials differ in their last bit.
RTOL = 1e-9


def keep(name, predictor, ask):
    """Write a golden file and what it must answer, which it is asked for once it is one."""
    path = GOLDEN / f"{name}.npz"
    save_predictor(predictor, path)
    assert path.stat().st_size <= MAX_BYTES, f"{path.stat().st_size:,} bytes"
    answers = ask(load_predictor(path, type(predictor)))
    plain = {field: np.asarray(values).tolist() for field, values in answers.items()}
    (GOLDEN / f"{name}.json").write_text(json.dumps(plain, indent=1) + "\n")


def expect(name, answers):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert answers.keys() == expected.keys()
    for field, values in answers.items():
        np.testing.assert_allclose(values, expected[field], rtol=RTOL, err_msg=field)


def fields_of(answer):
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}


def test_a_latency_predictor(random_networks, measure, make_conv, make_elementwise):
    unseen = [make_conv(300, 300, 5), make_elementwise(8, 7, "Odd")]
    question = [*random_networks(4, seed=5), unseen]

    def ask(predictor):
        return fields_of(predictor.predict(question))

    if REWRITE:
        few = [kernels[:8] for kernels in random_networks(12)]
        predictor = NetworkLatencyPredictor().fit(measure(few, noise=0.02))
        keep("network-latency", predictor, ask)
    expect("network-latency", ask(load_predictor(GOLDEN / "network-latency.npz")))
    summary = describe_predictor(GOLDEN / "network-latency.npz")
    assert summary.training.n_networks == 12
    assert summary.target.runtime == "onnxruntime-cpu"


def test_a_transfer_predictor():
    def ask(predictor):
        return fields_of(predictor.predict_adapted()) | {"chosen": predictor.choose(5)}

    if REWRITE:
        rng = np.random.default_rng(0)
        codes = rng.integers(3, size=(60, 4))
        cost = rng.uniform(1, 2, size=(3, 4, 3))
        features = ArchitectureFeatures.from_columns({f"op{i}": codes[:, i] for i in range(4)})
        devices = [
            DeviceSample(f"device {i}", np.arange(0, 60, 2), each[np.arange(4), codes].sum(1)[::2])
            for i, each in enumerate(cost)
        ]
        predictor = TransferPredictor(features, n_measured=4).fit(devices)
        predictor.adapt([0, 7, 21, 40], [1.0, 2.5, 1.5, 3.0])
        keep("transfer", predictor, ask)
    expect("transfer", ask(load_predictor(GOLDEN / "transfer.npz", TransferPredictor)))
    assert describe_predictor(GOLDEN / "transfer.npz").training.devices == (
        "device 0", "device 1", "device 2",
    )  # fmt: skip


@pytest.mark.skipif(REWRITE, reason="they are being written")
def test_every_golden_file_has_its_answers():
    names = {path.stem for path in GOLDEN.glob("*.npz")}
    assert names == {"network-latency", "transfer"} == {path.stem for path in GOLDEN.glob("*.json")}
