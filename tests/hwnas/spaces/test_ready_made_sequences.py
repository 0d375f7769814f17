"""What holds for every ready-made space of transformers, sequences, signals and tables."""

import pickle
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from hwnas.cost import CostTable
from hwnas.export import check_parity, save_onnx, to_onnx
from hwnas.networks import Network
from hwnas.profiling import untrained_model
from hwnas.spaces.gpt import gpt_space
from hwnas.spaces.mlp import mlp_space
from hwnas.spaces.recurrent import recurrent_space
from hwnas.spaces.text_transformer import text_transformer_space
from hwnas.spaces.vision_transformer import vit_space
from hwnas.spaces.wavenet import wavenet_space
from hwnas.supernet.supernet import Supernet
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

N_CLASSES, VOCABULARY = 5, 40
SPACES = {
    "vit": lambda: vit_space((1, 8, 8), N_CLASSES),
    "text_transformer": lambda: text_transformer_space((12,), N_CLASSES, VOCABULARY),
    "gpt": lambda: gpt_space((12,), N_CLASSES, VOCABULARY),
    "wavenet": lambda: wavenet_space((2, 32), N_CLASSES),
    "recurrent": lambda: recurrent_space((2, 32), N_CLASSES),
    "mlp": lambda: mlp_space((13,), N_CLASSES),
}


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]()


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


def genotypes(space, n, seed=0):
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def test_a_space_has_its_name_and_goes_to_another_process(space):
    assert SPACES[space.name]().choices == space.choices
    copy = pickle.loads(pickle.dumps(space))
    genotype = genotypes(space, 1)[0]
    assert copy.architecture(genotype) == space.architecture(genotype)


def test_sampled_networks_give_a_finite_logit_a_class(space):
    for genotype in genotypes(space, 20):
        architecture = space.architecture(genotype)
        inputs, _ = examples(architecture, 3)
        with torch.inference_mode():
            logits = Network(architecture).eval()(inputs)
        assert logits.shape == (3, N_CLASSES) and logits.isfinite().all()


def test_the_smallest_and_the_largest_network_run(space):
    sizes = []
    for genotype in ((0,) * len(space.choices), tuple(n - 1 for n in space.n_options)):
        network = Network(space.architecture(genotype)).eval()
        inputs, _ = examples(network.architecture, 2)
        with torch.inference_mode():
            assert network(inputs).shape == (2, N_CLASSES)
        sizes.append(sum(p.numel() for p in network.parameters()))
    assert sizes[0] < sizes[1]


def test_a_genotype_survives_json(space):
    for genotype in genotypes(space, 20):
        read = space.from_json(space.to_json(genotype))
        assert read == tuple(space.canonical(np.array([genotype]))[0])
        assert space.architecture(read) == space.architecture(genotype)


def test_canonical_form_is_its_own_and_keeps_the_network_apart_from_others(space):
    rows = space.sample(np.random.default_rng(0), 300)
    # Neighbours: every second one differs from its partner in one choice, often an inactive one.
    partners = rows.copy()
    columns = np.random.default_rng(1).integers(0, len(space.choices), len(partners))
    partners[np.arange(len(partners)), columns] = 0
    both = np.concatenate([rows, partners])
    canonical = space.canonical(both)
    assert (space.canonical(canonical) == canonical).all()
    pairs = {
        (tuple(row), space.architecture(tuple(own)))
        for row, own in zip(canonical.tolist(), both.tolist(), strict=True)
    }
    assert len(pairs) == len({row for row, _ in pairs}) == len({network for _, network in pairs})


def test_a_thousand_mutants_and_children_are_valid_and_describe_networks(space):
    rng = np.random.default_rng(0)
    parents = space.sample(rng, 1000)
    mutants = space.mutate(parents, rng)
    assert (mutants != parents).any(axis=1).mean() > 0.8
    for rows in (mutants, space.crossover(parents, mutants, rng)):
        assert rows.shape == parents.shape and space.is_valid(rows).all()
        assert all(space.architecture(tuple(row)).blocks for row in rows.tolist())


def test_onnx_runtime_computes_what_the_network_computes(space, tmp_path):
    for i, genotype in enumerate(genotypes(space, 2, seed=1)):
        torch.manual_seed(i)
        network = Network(space.architecture(genotype)).eval()
        inputs, _ = examples(network.architecture, 4)
        proto = to_onnx(network, [inputs], input_names=["input"], output_names=["logits"])
        onnx.checker.check_model(proto)
        path = tmp_path / f"{i}.onnx"
        save_onnx(proto, path, metadata={})
        assert check_parity(path, network, inputs) <= 1e-4


def test_a_subnet_of_the_supernet_is_the_network_that_is_extracted(space):
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


def test_blocks_have_the_kernels_of_the_whole_network(space):
    profiler = Profiler(make_target())
    (genotype,) = genotypes(space, 1, seed=4)
    model = untrained_model(space.architecture(genotype))
    whole = Counter(node.kernel.key for node in profiler.kernels(model))
    with MeasurementStore(":memory:") as store:
        kernels = CostTable(space, profiler, store).kernels(genotype)
    assert Counter(kernel.key for kernel in kernels) == whole


def test_a_network_learns_and_all_of_it_takes_part(space):
    torch.manual_seed(0)
    network = Network(space.architecture(genotypes(space, 1, seed=2)[0]))
    inputs, labels = examples(network.architecture, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
