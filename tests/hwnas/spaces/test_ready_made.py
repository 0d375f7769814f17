"""What holds for every ready-made space of convolutional networks.

A space is added by a line in `SPACES`: its factory, and the shape of a small example.
"""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional

from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.networks import Network, counts, example
from hwnas.spaces.darts import darts_space
from hwnas.spaces.fbnet import fbnet_space, proxylessnas_space
from hwnas.spaces.nasbench201 import nasbench201_space
from hwnas.spaces.once_for_all import ofa_mobilenet_v3_space
from hwnas.spaces.regnet import regnet_space
from hwnas.spaces.resnet import resnet_space

N_CLASSES = 5
SPACES = {
    "ofa_mobilenet_v3": (ofa_mobilenet_v3_space, (2, 8, 8)),
    "proxylessnas": (proxylessnas_space, (2, 8, 8)),
    "fbnet": (fbnet_space, (2, 8, 8)),
    "resnet": (resnet_space, (2, 8, 8)),
    "regnet": (regnet_space, (2, 8, 8)),
    "nasbench201": (nasbench201_space, (2, 8, 8)),
    "darts": (darts_space, (2, 8, 8)),
}


@pytest.fixture(params=SPACES)
def space(request):
    factory, shape = SPACES[request.param]
    made = factory(shape, N_CLASSES)
    assert made.name == request.param
    return made


def genotypes(space, n, seed=0):
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def inputs_of(architecture, n):
    """Random values, or random ids below 2, which every vocabulary has."""
    empty = example(architecture.input_shape, architecture.input_type, batch=n)
    rng = torch.Generator().manual_seed(0)
    if architecture.input_type == "int64":
        return torch.randint(0, 2, empty.shape, generator=rng)
    return torch.randn(empty.shape, generator=rng)


def test_a_space_goes_to_another_process(space):
    copy = pickle.loads(pickle.dumps(space))
    genotype = genotypes(space, 1)[0]
    assert copy.architecture(genotype) == space.architecture(genotype)


def test_sampled_networks_give_a_finite_logit_a_class(space):
    for genotype in genotypes(space, 20):
        architecture = space.architecture(genotype)
        with torch.inference_mode():
            logits = Network(architecture).eval()(inputs_of(architecture, 2))
        assert logits.shape == (2, N_CLASSES) and logits.isfinite().all()


def test_a_genotype_survives_json(space):
    for genotype in genotypes(space, 20):
        read = space.from_json(space.to_json(genotype))
        assert read == tuple(space.canonical(np.array([genotype]))[0])
        assert space.architecture(read) == space.architecture(genotype)


def test_canonical_form_is_its_own_and_keeps_the_network(space):
    rows = space.sample(np.random.default_rng(0), 200)
    canonical = space.canonical(rows)
    assert (space.canonical(canonical) == canonical).all()
    for row, own in zip(rows.tolist(), canonical.tolist(), strict=True):
        assert space.architecture(tuple(row)) == space.architecture(tuple(own))


def test_a_thousand_mutants_and_children_are_valid_and_describe_networks(space):
    rng = np.random.default_rng(0)
    parents = space.sample(rng, 1000)
    mutants = space.mutate(parents, rng)
    assert (mutants != parents).any(axis=1).mean() > 0.8
    for rows in (mutants, space.crossover(parents, mutants, rng)):
        assert rows.shape == parents.shape and space.is_valid(rows).all()
        described = [space.architecture(tuple(row)) for row in rows.tolist()]
        assert all(counts(one).out_shape == (N_CLASSES,) for one in described[:5])


def test_every_parameter_takes_part(space):
    for genotype in genotypes(space, 2):
        network = Network(space.architecture(genotype))
        logits = network(inputs_of(network.architecture, 4))
        functional.cross_entropy(logits, torch.arange(4)).backward()
        assert all(p.grad is not None for p in network.parameters())


def test_onnx_runtime_computes_what_the_network_computes(space, tmp_path):
    for i, genotype in enumerate(genotypes(space, 2, seed=1)):
        torch.manual_seed(i)
        architecture = space.architecture(genotype)
        network = Network(architecture)
        network(inputs_of(architecture, 16))  # so that the statistics of batch norm are not 0, 1
        path = tmp_path / f"{i}.onnx"
        proto = network_to_onnx(
            network.eval(), architecture.input_shape, input_type=architecture.input_type
        )
        save_onnx(proto, path, metadata={})
        assert check_parity(path, network, inputs_of(architecture, 4)) <= 1e-4
