import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.data import Preprocessing
from hwnas.errors import ConfigError, DataError
from hwnas.training import (
    Recipe,
    TrainingDivergedError,
    distillation_loss,
    evaluate,
    mixed_precision,
    predict_logits,
    seeded,
    train,
)

QUICK = Recipe(epochs=2, batch_size=16)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_training_learns_and_never_reads_the_test_split(make_data, make_network):
    result = train(make_network(), make_data(), Recipe(10, 16), input_shape=(1, 8, 8), seed=0)
    assert result.validation.accuracy == 1.0
    assert result.validation.n == 50
    assert result.n_steps == 30  # 10 epochs of 50 // 16
    assert 0 < result.final_loss < math.log(2)
    assert result.train_seconds > 0


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(make_data, make_network):
    data = make_data()

    def trained(seed):
        torch.rand(17)
        network = make_network(dropout=0.5)
        result = train(network, data, QUICK, input_shape=(1, 8, 8), seed=seed)
        return weights(network), result.final_loss

    first, again, other = trained(3), trained(3), trained(4)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])


def test_training_leaves_the_random_state_and_the_memory_layout_as_they_were(
    make_data, make_network
):
    network = make_network(dropout=0.5)
    strides = [p.stride() for p in network.parameters()]
    before = torch.get_rng_state()
    train(network, make_data(), QUICK, input_shape=(1, 8, 8), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.stride() for p in network.parameters()] == strides
    assert not network.training


@pytest.mark.parametrize("n", [9, 17, 33])  # 17 = 16 + 1: a last batch of one image
def test_batch_norm_never_meets_a_batch_of_one(n, make_data, make_network):
    train(make_network(), make_data(n), Recipe(2, 16), input_shape=(1, 1, 1), seed=0)


def test_images_are_resized_to_the_resolution_of_the_network(make_data, make_network):
    sides = []
    network = make_network()
    network.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2:]))
    train(network, make_data(), QUICK, input_shape=(1, 12, 12), seed=0)
    assert set(sides) == {(12, 12)}


def test_divergence_is_an_error_that_names_the_step_and_the_learning_rate(make_data, make_network):
    network = make_network()
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    with pytest.raises(
        TrainingDivergedError, match=r"became nan within 1 of 6 steps at .* rate 0\.01;"
    ):
        train(network, make_data(), QUICK, input_shape=(1, 8, 8), seed=0)


def test_outputs_that_overflow_only_in_eval_mode_are_divergence_too(make_data, make_network):
    network = make_network()
    network[1].running_var.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="logits"):
        evaluate(network, make_data(), make_data().train, input_shape=(1, 8, 8))


def test_progress_rises_to_one_and_what_it_raises_ends_the_training(make_data, make_network):
    shares = []
    recipe = Recipe(epochs=40, batch_size=16)
    train(
        make_network(),
        make_data(),
        recipe,
        input_shape=(1, 8, 8),
        seed=0,
        on_progress=shares.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 20 <= len(shares) <= 50

    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            make_network(),
            make_data(),
            recipe,
            input_shape=(1, 8, 8),
            seed=0,
            on_progress=interrupt,
        )


def test_logits_do_not_depend_on_the_batch_size_and_follow_the_order_of_images(
    make_data, make_network
):
    data, network = make_data(), make_network(dropout=0.5)
    images = Preprocessing.of(data, (1, 8, 8)).apply(data.train.inputs)
    logits = predict_logits(network, images, batch_size=7)
    assert logits.shape == (50, 2)
    torch.testing.assert_close(logits, predict_logits(network, images, batch_size=50))
    torch.testing.assert_close(logits[3:4], predict_logits(network, images[3:4], batch_size=1))


def network_for(kind):
    layers = {
        "signal": [nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)],
        "table": [nn.Linear(5, 2)],
        "tokens": [nn.Embedding(11, 8), nn.Flatten(), nn.Linear(96, 2)],
    }
    with seeded(0):
        return nn.Sequential(*layers[kind])


@pytest.mark.parametrize("kind", ["signal", "table", "tokens"])
def test_every_kind_of_data_is_learnt_without_reading_the_test_split(make_other, kind):
    data = make_other(kind)
    result = train(
        network_for(kind),
        data,
        Recipe(10, 16, learning_rate=0.03),
        input_shape=data.input_shape,
        seed=0,
    )
    assert result.validation.accuracy > 0.95
    assert result.n_steps == 40


def test_a_network_for_another_shape_is_refused(make_other):
    data = make_other("signal")
    with pytest.raises(
        DataError, match="network for 1×16 cannot take the signals of 'signal', 1×32"
    ):
        train(network_for("signal"), data, QUICK, input_shape=(1, 16), seed=0)


def test_an_augmentation_for_another_kind_of_data_is_refused(make_other):
    data = make_other("table")
    recipe = Recipe(1, flip=True)
    with pytest.raises(
        ConfigError, match="flip is for data of kind image, these are of kind table"
    ):
        train(network_for("table"), data, recipe, input_shape=(5,), seed=0)


def test_soft_answers_that_agree_cost_nothing_and_others_their_divergence():
    taught = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert distillation_loss(taught + 5, taught, 4.0) == pytest.approx(0, abs=1e-6)
    # By hand for one example at temperature 2: logits (0, 0) against (2 ln 3, 0) are (1/2, 1/2)
    # against (3/4, 1/4): 4 (3/4 ln(3/2) + 1/4 ln(1/2))
    one = distillation_loss(torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]]), 2.0)
    assert one == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-5)


def test_a_student_learns_what_its_teacher_says_against_the_labels(make_data, make_network):
    data = make_data()

    class Contrary(nn.Module):
        """Calls every class by the other one's name; its dropout must not be on."""

        def forward(self, images):
            assert not self.training
            across = images.std(dim=3).mean(dim=(1, 2)) > images.std(dim=2).mean(dim=(1, 2))
            return 9 * functional.one_hot(across.long(), 2).float()

    recipe = Recipe(10, 16, distillation=1.0, temperature=1.0)
    result = train(make_network(), data, recipe, input_shape=(1, 8, 8), seed=0, teacher=Contrary())
    assert result.validation.accuracy == 0.0
    assert train(make_network(), data, Recipe(10, 16), input_shape=(1, 8, 8), seed=0).validation


def test_averaged_weights_lie_between_and_score_as_well(make_data, make_network):
    data = make_data()

    def trained(ema_decay):
        network = make_network()
        recipe = Recipe(10, 16, ema_decay=ema_decay)
        result = train(network, data, recipe, input_shape=(1, 8, 8), seed=0)
        return weights(network), result.validation.accuracy

    start = weights(make_network())
    plain, averaged = trained(0.0), trained(0.9)
    assert averaged[1] == 1.0
    assert 0 < (averaged[0] - plain[0]).norm() < (plain[0] - start).norm()


def test_bfloat16_trains_nearly_alike_and_leaves_the_weights_in_float32(make_data, make_network):
    data = make_data()
    seen = []
    network = make_network()
    network[0].register_forward_hook(lambda m, inputs, output: seen.append(output.dtype))
    recipe = Recipe(10, 16, precision="bf16")
    result = train(network, data, recipe, input_shape=(1, 8, 8), seed=0)
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32  # the last one is of scoring
    assert result.validation.accuracy == 1.0
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_cpu_computes_in_float32_unless_told_otherwise():
    for precision, expected in (("auto", False), ("fp32", False), ("bf16", True)):
        with mixed_precision(torch.device("cpu"), Recipe(1, precision=precision)):
            assert torch.is_autocast_enabled("cpu") is expected


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    def is_supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    with mixed_precision(torch.device("cuda"), Recipe(1)):
        assert not torch.is_autocast_enabled("cuda")


def test_without_a_compiler_training_goes_on_and_says_so(make_data, make_network, monkeypatch):
    def broken(network):
        def forward(inputs):
            raise RuntimeError("Compiler: c++ is not found.\nand more")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    plain, network = make_network(), make_network()
    train(plain, make_data(), QUICK, input_shape=(1, 8, 8), seed=0)
    recipe = Recipe(2, 16, compile=True)
    with pytest.warns(
        RuntimeWarning, match=r"cannot be used here.*: Compiler: c\+\+ is not found\.$"
    ):
        train(network, make_data(), recipe, input_shape=(1, 8, 8), seed=0)
    assert torch.equal(weights(network), weights(plain))


def test_a_mistake_of_the_network_is_not_taken_for_a_missing_compiler(make_data, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(network, make_data(), Recipe(1, compile=True), input_shape=(1, 8, 8), seed=0)


@pytest.mark.slow
def test_a_compiled_network_learns_too(make_data, make_network):
    recipe = Recipe(10, 16, compile=True)
    result = train(make_network(), make_data(), recipe, input_shape=(1, 8, 8), seed=0)
    assert result.validation.accuracy == 1.0
