import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwnas.networks import Network
from hwnas.spaces.gpt import gpt_space

GPT2_VOCABULARY, GPT2_LENGTH = 50_257, 1024


def gpt2_small():
    """The largest genotype of the space for GPT-2's vocabulary."""
    space = gpt_space((GPT2_LENGTH,), 0, GPT2_VOCABULARY, language_model=True)
    return space.architecture(tuple(n - 1 for n in space.n_options))


def counted(blocks, x):
    """Parameters and MACs of each block in a row, without memory for weights."""
    rows = []
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for block in blocks:
            module = block.build(tuple(x.shape[1:]))
            with FlopCounterMode(display=False) as counter:
                x = module(x)
            params = sum(p.numel() for p in module.parameters())
            rows.append((params, counter.get_total_flops() // 2))
    return rows


def test_the_largest_network_for_its_vocabulary_is_gpt2_small():
    architecture = gpt2_small()
    x = torch.zeros((1, GPT2_LENGTH), dtype=torch.int64, device="meta")
    embedding, *layers, head = counted(architecture.blocks, x)
    last_norm = 2 * 768
    output = GPT2_VOCABULARY * 768 + GPT2_VOCABULARY  # theirs is the embedding, without a bias
    without_embedding = sum(params for params, _ in layers) + last_norm
    # Radford et al., 2019: 124M (their paper's 117M is a known misprint), 85M without embeddings.
    assert without_embedding == 85_056_000
    assert embedding[0] + without_embedding == 124_439_808
    assert head[0] == last_norm + output
    # Kaplan et al., Scaling Laws for Neural Language Models, 2020, table 1: per token and layer,
    # 12 d² of matrices and 2 n_ctx d of attention.
    per_token = 12 * (12 * 768**2 + 2 * GPT2_LENGTH * 768)
    assert sum(macs for _, macs in layers) == GPT2_LENGTH * per_token


@pytest.mark.parametrize("seed", range(4))
def test_the_logits_of_a_next_token_do_not_depend_on_later_tokens(seed):
    space = gpt_space((9,), 0, 30, language_model=True)
    network = Network(space.architecture(tuple(space.sample(np.random.default_rng(seed), 1)[0])))
    network.eval()
    torch.manual_seed(seed)
    ids = torch.randint(0, 30, (2, 9))
    with torch.no_grad():
        logits = network(ids)
        assert logits.shape == (2, 9, 30)
        for t in range(8):
            changed = ids.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % 30
            others = network(changed)
            torch.testing.assert_close(others[:, : t + 1], logits[:, : t + 1])
            assert not torch.isclose(others[:, t + 1], logits[:, t + 1]).all(dim=1).any()


def test_a_class_is_read_where_the_whole_sequence_has_been_seen():
    space = gpt_space((5,), 3, 20)
    network = Network(space.architecture((0,) * len(space.choices))).eval()
    ids = torch.full((1, 5), 7)
    with torch.no_grad():
        logits = network(ids)
        assert logits.shape == (1, 3)
        for position in range(5):
            changed = ids.clone()
            changed[0, position] = 2
            assert not torch.allclose(network(changed), logits, atol=1e-6)


def test_what_is_no_sequence_of_tokens_is_refused():
    with pytest.raises(ValueError, match=r"gpt space needs token ids .* got shape \(1, 8\)"):
        gpt_space((1, 8), 2, 50)
