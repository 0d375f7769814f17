import numpy as np
import onnxruntime as ort
import pytest

from hwnas.families import FAMILIES, sample_network


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_a_family_run_and_differ(family):
    digests = set()
    for seed in range(3):
        model = sample_network(family, seed)
        session = ort.InferenceSession(
            model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (logits,) = session.run(None, model.random_inputs(np.random.default_rng(0)))
        assert logits.shape == (1, 10)
        assert np.isfinite(logits).all()
        digests.add(model.digest)
    assert len(digests) == 3


def test_the_same_seed_gives_the_same_network():
    assert sample_network("dense", 4).digest == sample_network("dense", 4).digest


def test_a_batch_is_the_first_dimension():
    assert sample_network("recurrent", 0, batch=3).batch == 3
