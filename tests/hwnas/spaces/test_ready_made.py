"""What holds for every ready-made space; one is added by a line in `SPACES`."""

import pickle
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from hwnas.cost import CostTable
from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.networks import Network, counts
from hwnas.profiling import untrained_model
from hwnas.spaces.darts import darts_space
from hwnas.spaces.fbnet import fbnet_space, proxylessnas_space
from hwnas.spaces.gpt import gpt_space
from hwnas.spaces.mlp import mlp_space
from hwnas.spaces.nasbench201 import nasbench201_space
from hwnas.spaces.once_for_all import ofa_mobilenet_v3_space
from hwnas.spaces.recurrent import recurrent_space
from hwnas.spaces.regnet import regnet_space
from hwnas.spaces.resnet import resnet_space
from hwnas.spaces.text_transformer import text_transformer_space
from hwnas.spaces.vgg import vgg_space
from hwnas.spaces.vision_transformer import vit_space
from hwnas.spaces.wavenet import wavenet_space
from hwnas.supernet import Supernet
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

N_CLASSES, VOCABULARY = 5, 40
CONVOLUTIONAL = {
    "darts": lambda: darts_space((2, 8, 8), N_CLASSES),
    "fbnet": lambda: fbnet_space((2, 8, 8), N_CLASSES),
    "nasbench201": lambda: nasbench201_space((2, 8, 8), N_CLASSES),
    "ofa_mobilenet_v3": lambda: ofa_mobilenet_v3_space((2, 8, 8), N_CLASSES),
    "proxylessnas": lambda: proxylessnas_space((2, 8, 8), N_CLASSES),
    "regnet": lambda: regnet_space((2, 8, 8), N_CLASSES),
    "resnet": lambda: resnet_space((2, 8, 8), N_CLASSES),
    "vgg": lambda: vgg_space((2, 16, 16), N_CLASSES),
}
OTHERS = {
    "gpt": lambda: gpt_space((12,), N_CLASSES, VOCABULARY),
    "mlp": lambda: mlp_space((13,), N_CLASSES),
    "recurrent": lambda: recurrent_space((2, 32), N_CLASSES),
    "text_transformer": lambda: text_transformer_space((12,), N_CLASSES, VOCABULARY),
    "vit": lambda: vit_space((1, 8, 8), N_CLASSES),
    "wavenet": lambda: wavenet_space((2, 32), N_CLASSES),
}
SPACES = CONVOLUTIONAL | OTHERS
# Half a hundred slots of cells: ten seconds of a processor.
WITH_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name == "darts" else name
    for name in sorted(SPACES)
]


@pytest.fixture(params=sorted(SPACES))
def space(request):
    return SPACES[request.param]()


def genotypes(space, n, seed=0):
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def examples(architecture, n, seed=0):
    """Inputs of random classes, and the classes, which a network can tell apart."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, N_CLASSES, n))
    shape = architecture.input_shape
    if architecture.input_type == "int64":
        frequent = rng.integers(0, VOCABULARY, (N_CLASSES, *shape))
        rare = rng.integers(0, VOCABULARY, (n, *shape))
        return torch.from_numpy(
            np.where(rng.random((n, *shape)) < 0.5, frequent[labels], rare)
        ), labels
    centres = rng.normal(size=(N_CLASSES, *shape))
    noisy = centres[labels] + rng.normal(size=(n, *shape))
    return torch.from_numpy(noisy.astype(np.float32)), labels


def test_a_space_has_its_name_and_goes_to_another_process(space):
    assert SPACES[space.name]().choices == space.choices
    copy = pickle.loads(pickle.dumps(space))
    genotype = genotypes(space, 1)[0]
    assert copy.architecture(genotype) == space.architecture(genotype)


def test_sampled_networks_give_a_finite_logit_a_class(space):
    for genotype in genotypes(space, 20):
        architecture = space.architecture(genotype)
        inputs, _ = examples(architecture, 2)
        with torch.inference_mode():
            logits = Network(architecture).eval()(inputs)
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


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_canonical_forms_that_differ_are_networks_that_differ(name):
    space = SPACES[name]()
    rows = space.sample(np.random.default_rng(0), 300)
    # Neighbours: every second one differs from its partner in one choice, often an inactive one.
    partners = rows.copy()
    columns = np.random.default_rng(1).integers(0, len(space.choices), len(partners))
    partners[np.arange(len(partners)), columns] = 0
    both = np.concatenate([rows, partners])
    pairs = {
        (tuple(row), space.architecture(tuple(own)))
        for row, own in zip(space.canonical(both).tolist(), both.tolist(), strict=True)
    }
    assert len(pairs) == len({row for row, _ in pairs}) == len({network for _, network in pairs})


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
        inputs, labels = examples(network.architecture, 4)
        functional.cross_entropy(network(inputs), labels).backward()
        assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_smallest_and_the_largest_network_run(name):
    space, sizes = SPACES[name](), []
    for genotype in ((0,) * len(space.choices), tuple(n - 1 for n in space.n_options)):
        network = Network(space.architecture(genotype)).eval()
        inputs, _ = examples(network.architecture, 2)
        with torch.inference_mode():
            assert network(inputs).shape == (2, N_CLASSES)
        sizes.append(sum(p.numel() for p in network.parameters()))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_network_learns(name):
    space = SPACES[name]()
    torch.manual_seed(0)
    network = Network(space.architecture(genotypes(space, 1, seed=2)[0]))
    inputs, labels = examples(network.architecture, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_onnx_runtime_computes_what_the_network_computes(space, tmp_path):
    for i, genotype in enumerate(genotypes(space, 2, seed=1)):
        torch.manual_seed(i)
        architecture = space.architecture(genotype)
        network = Network(architecture)
        network(examples(architecture, 16)[0])  # so that statistics of batch norm are not 0, 1
        path = tmp_path / f"{i}.onnx"
        proto = network_to_onnx(
            network.eval(), architecture.input_shape, input_type=architecture.input_type
        )
        onnx.checker.check_model(proto)
        save_onnx(proto, path, metadata={})
        assert check_parity(path, network, examples(architecture, 4)[0]) <= 1e-4


@pytest.mark.parametrize("name", sorted(SPACES))
def test_blocks_have_the_kernels_of_the_whole_network(name):
    space = SPACES[name]()
    profiler = Profiler(make_target())
    (genotype,) = genotypes(space, 1, seed=4)
    model = untrained_model(space.architecture(genotype))
    whole = Counter(node.kernel.key for node in profiler.kernels(model))
    with MeasurementStore(":memory:") as store:
        kernels = CostTable(space, profiler, store).kernels(genotype)
    assert Counter(kernel.key for kernel in kernels) == whole


@pytest.mark.parametrize("name", WITH_SLOW)
def test_a_subnet_of_the_supernet_is_the_network_that_is_extracted(name):
    space = SPACES[name]()
    torch.manual_seed(0)
    supernet = Supernet(space)
    for genotype in genotypes(space, 3, seed=3):
        inputs, _ = examples(space.architecture(genotype), 8)
        supernet.recalibrate(genotype, [inputs])
        supernet.eval()
        network = supernet.extract(genotype)
        assert network.architecture == space.architecture(genotype)
        with torch.inference_mode():
            torch.testing.assert_close(network(inputs), supernet(inputs, genotype))
