"""What holds for the space around every model."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from hwnas.around import space_around
from hwnas.cost import CostTable
from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.networks import Network, counts
from hwnas.supernet import Supernet
from profilers.onnx_models import make_model as onnx_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target


def largest(space):
    return tuple(n - 1 for n in space.n_options)


def genotypes(space, n, seed=0):
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def logits(y):
    return y["logits"] if isinstance(y, dict) else y


def test_at_full_size_it_is_the_model_to_the_last_bit(case):
    model, x, space = case
    network = Network(space.architecture(largest(space))).eval()
    model.eval()
    for n in (1, 3, 4):
        assert torch.equal(network(x[:n]), logits(model(x[:n])))
    n_params = sum(p.numel() for p in model.parameters())
    assert counts(network.architecture).params == n_params


def test_variants_run_forward_and_backward_and_are_smaller(case):
    model, x, space = case
    n_params = sum(p.numel() for p in model.parameters())
    for genotype in [(0,) * len(space.choices), *genotypes(space, 5)]:
        architecture = space.architecture(genotype)
        network = Network(architecture).train()
        network(x).square().mean().backward()
        assert all(p.grad is not None for p in network.parameters())
        is_full = architecture == space.architecture(largest(space))
        assert counts(architecture).params < n_params or is_full
        assert space.architecture(space.from_json(space.to_json(genotype))) == architecture
        assert len(json.loads(architecture.to_json())["blocks"]) == len(architecture.blocks)


def test_an_exported_variant_computes_the_same(case, tmp_path):
    _, x, space = case
    for genotype in genotypes(space, 2, seed=1):
        architecture = space.architecture(genotype)
        network = Network(architecture)
        proto = network_to_onnx(
            network, architecture.input_shape, input_type=architecture.input_type
        )
        save_onnx(proto, tmp_path / "variant.onnx", metadata={})
        assert check_parity(tmp_path / "variant.onnx", network, x) <= 1e-5


@pytest.mark.parametrize("name", ["sequential", "resnet", "branches", "text"])
def test_pieces_have_the_kernels_of_the_whole_network(name, make_case, tmp_path):
    _, x, space = make_case(name)
    profiler = Profiler(make_target())
    with MeasurementStore(tmp_path / "measurements.db") as store:
        table = CostTable(space, profiler, store)
        for genotype in genotypes(space, 2):
            network = Network(space.architecture(genotype))
            proto = network_to_onnx(network, x.shape[1:], input_type=space.input_type)
            whole = profiler.kernels(onnx_model(proto, name="whole"))
            kernels = Counter(kernel.key for kernel in table.kernels(genotype))
            assert kernels == Counter(node.kernel.key for node in whole)
            found = table.counts(np.array([genotype]))
            assert found.params[0] == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ["sequential", "resnet", "vision_transformer", "text"])
def test_subnets_of_a_supernet_of_sorted_slices_begin_with_the_models_weights(name, make_model):
    model, x = make_model(name)
    space = space_around(model, x, is_sorted=True)
    supernet = Supernet(space)
    for genotype in [largest(space), *genotypes(space, 3)]:
        supernet.recalibrate(genotype, [x])
        subnet = supernet.extract(genotype)
        own = dict(Network(space.architecture(genotype)).named_parameters())
        for key, parameter in subnet.named_parameters():
            assert torch.equal(parameter, own[key]), key
        assert torch.equal(supernet.eval()(x, genotype), subnet(x))


def test_the_space_is_the_same_in_every_process_and_another_around_other_weights(make_model):
    model, x = make_model("resnet")
    space = space_around(model, x)
    assert space_around(model, x).fingerprint == space.fingerprint
    copy = pickle.loads(pickle.dumps(space))
    assert copy.fingerprint == space.fingerprint
    with torch.no_grad():
        model.fc.bias += 1
    assert space_around(model, x).fingerprint != space.fingerprint
