from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.errors import ConfigError, DataError, RunFolderError
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.supernet import (
    WAYS,
    Supernet,
    evaluate_subnet,
    load_supernet,
    make_way,
    save_supernet,
    train_supernet,
    training,
)
from hwnas.supernet.training import calibration_batches
from hwnas.training import Recipe, TrainingDivergedError, batches, seeded
from hwnas.weight_files import pack_weights, read_weights

QUICK = Recipe(epochs=2, batch_size=16)  # 12 steps of 96 images


@pytest.fixture
def make_supernet(image_space):
    def make():
        with seeded(0):
            return Supernet(image_space)

    return make


def state(supernet):
    return {key: value.clone() for key, value in supernet.state_dict().items()}


def are_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Fixed:
    """Trains given subnets in every step."""

    def __init__(self, *subnets, distils=False):
        self.distils = distils
        self._subnets = subnets

    def subnets(self, step, n_steps):
        return self._subnets


@pytest.mark.parametrize("name", WAYS)
def test_a_trained_supernet_knows_the_classes(name, make_supernet, image_space, images):
    supernet = make_supernet()
    way = make_way(name, image_space, seed=0)
    result = train_supernet(supernet, images, Recipe(epochs=12, batch_size=16), way, seed=0)
    assert result.n_steps == 72 and result.final_loss < 1
    drawn = map(tuple, image_space.sample(np.random.default_rng(0), 6).tolist())
    accuracy = [evaluate_subnet(supernet, genotype, images).accuracy for genotype in drawn]
    assert np.mean(accuracy) > 0.6  # by chance 0.33


@pytest.mark.parametrize("name", ["single-path", "sandwich"])
@pytest.mark.parametrize("when", [1, 5])
def test_a_stopped_and_resumed_training_ends_with_the_same_weights(
    name, when, make_supernet, image_space, images, tmp_path
):
    recipe = replace(QUICK, max_shift=0.2, mixup=0.2, ema_decay=0.9)

    def run(supernet, **given):
        way = make_way(name, image_space, seed=0)
        return train_supernet(supernet, images, recipe, way, seed=3, **given)

    whole = make_supernet()
    expected = run(whole)

    def stop(share):
        if share * expected.n_steps >= when:
            raise KeyboardInterrupt

    path = tmp_path / "supernet.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(make_supernet(), checkpoint=path, on_progress=stop)
    other = make_supernet()
    with torch.no_grad():
        next(other.parameters()).zero_()  # all comes from the checkpoint
    resumed = run(other, checkpoint=path)
    assert are_equal(state(other), state(whole))
    assert resumed.final_loss == expected.final_loss
    again = run(make_supernet(), checkpoint=path)  # nothing is left to do
    assert again.final_loss == expected.final_loss
    assert are_equal(state(load_supernet(image_space, path)), state(whole))


def test_the_average_of_the_weights_is_kept(make_supernet, image_space, images):
    weights = []

    def trained(**changes):
        supernet = make_supernet()

        def look(share):
            weights.append([p.detach().clone() for p in supernet.parameters()])

        way = make_way("single-path", image_space, seed=0)
        train_supernet(supernet, images, replace(QUICK, **changes), way, seed=0, on_progress=look)
        return list(supernet.parameters())

    plain = trained()
    expected = [p.detach() for p in make_supernet().parameters()]
    for n, now in enumerate(weights, start=1):
        decay = min(0.5, n / (n + 10))
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)]
    averaged = trained(ema_decay=0.5)
    for found, wanted in zip(averaged, expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted)
    assert not are_equal(dict(enumerate(plain)), dict(enumerate(averaged)))


@pytest.fixture
def stopped(images, tmp_path):
    """A space of dense convolutions, and the checkpoint of a training of it that was stopped."""
    space = SearchSpace(
        "dense",
        (Choice("kernel", (3, 5)),),
        lambda options: (1, 6, 6),
        (
            lambda options: ConvBlock(8, options["kernel"], 1, "relu"),
            lambda options: ConvBlock(8, 3, 1, "relu"),
            lambda options: ClassifierHead(16, 3, "relu"),
        ),
    )
    path = tmp_path / "supernet.safetensors"

    def run(checkpoint=None, on_progress=lambda share: None):
        with seeded(0):
            supernet = Supernet(space)
        way = make_way("single-path", space, seed=0)
        options = {"checkpoint": checkpoint, "on_progress": on_progress}
        train_supernet(supernet, images, replace(QUICK, ema_decay=0.9), way, seed=3, **options)
        return supernet

    def stop(share):
        if share >= 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, stop)
    return path, run


def test_an_unfinished_average_is_what_is_loaded_and_a_finished_file_holds_weights_only(stopped):
    path, run = stopped
    tensors, _ = read_weights(path)
    means = {n.removeprefix("average/"): v for n, v in tensors.items() if n.startswith("average/")}
    loaded = load_supernet(run().space, path)
    assert means and are_equal({name: state(loaded)[name] for name in means}, means)
    finished = run(path)
    tensors, about = read_weights(path)
    assert set(tensors) == set(finished.state_dict()) and about["training"]["step"] == 12
    assert are_equal(state(run(path)), state(finished))


def test_moments_of_kernels_are_laid_out_as_the_kernels_after_a_stop(stopped):
    path, run = stopped
    assert are_equal(state(run(path)), state(run()))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, about: about["training"].update(step=10**12),
        lambda tensors, about: about["training"].update(step=-1),
        lambda tensors, about: about["training"].update(losses=["x"]),
        lambda tensors, about: about["training"].pop("losses"),
        lambda tensors, about: tensors.update({first(tensors, "exp_avg"): torch.zeros(1)}),
        lambda tensors, about: tensors.pop(first(tensors, "exp_avg_sq")),
        lambda tensors, about: tensors.update({first(tensors, "step"): torch.tensor(-5.0)}),
        lambda tensors, about: tensors.update({first(tensors, "step"): torch.zeros(2)}),
        lambda tensors, about: tensors.update({"optimizer/other/step": torch.ones(1)}),
        lambda tensors, about: tensors.pop(next(n for n in tensors if n.startswith("average/"))),
        lambda tensors, about: tensors.update(
            {next(n for n in tensors if n.startswith("average/")): torch.zeros(1)}
        ),
    ],
)
def test_a_checkpoint_of_another_training_state_is_refused(stopped, change):
    path, run = stopped
    tensors, about = read_weights(path)
    change(tensors, about)
    path.write_bytes(pack_weights(tensors, about))
    with pytest.raises(RunFolderError, match="is damaged|does not fit"):
        run(path)


def first(tensors, what):
    return next(n for n in tensors if n.startswith("optimizer/") and n.endswith(f"/{what}"))


def test_an_update_that_ctrl_c_broke_is_not_saved(
    make_supernet, image_space, images, tmp_path, monkeypatch
):
    path = tmp_path / "supernet.safetensors"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)  # after each step
    n_updates = 0

    def broken(self, closure=None):
        nonlocal n_updates
        n_updates += 1
        if n_updates == 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].zero_()
            raise KeyboardInterrupt
        return original(self, closure)

    original = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    way = make_way("single-path", image_space, seed=0)
    with pytest.raises(KeyboardInterrupt):
        train_supernet(make_supernet(), images, QUICK, way, seed=0, checkpoint=path)
    monkeypatch.setattr(torch.optim.AdamW, "step", original)
    resumed, whole = make_supernet(), make_supernet()
    train_supernet(resumed, images, QUICK, way, seed=0, checkpoint=path)
    train_supernet(whole, images, QUICK, way, seed=0)
    assert are_equal(state(resumed), state(whole))


def test_a_checkpoint_of_another_training_is_refused(make_supernet, image_space, images, tmp_path):
    path = tmp_path / "supernet.safetensors"
    way = make_way("single-path", image_space, seed=0)
    train_supernet(make_supernet(), images, QUICK, way, seed=0, checkpoint=path)
    others = [
        (replace(QUICK, learning_rate=0.02), way, 0),
        (QUICK, make_way("fair", image_space, seed=0), 0),
        (QUICK, way, 1),
    ]
    for recipe, other, seed in others:
        with pytest.raises(ConfigError, match="another training"):
            train_supernet(make_supernet(), images, recipe, other, seed=seed, checkpoint=path)


def test_files_that_cannot_be_read_are_told(make_supernet, image_space, token_space, tmp_path):
    path = tmp_path / "deep" / "supernet.safetensors"
    supernet = make_supernet()
    save_supernet(supernet, path)
    assert are_equal(state(load_supernet(image_space, path)), state(supernet))
    with pytest.raises(RunFolderError, match="another space than 'tokens'"):
        load_supernet(token_space, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunFolderError, match="cannot read .*holds no weights"):
        load_supernet(image_space, path)
    with pytest.raises(RunFolderError, match="cannot read .*No such file"):
        load_supernet(image_space, tmp_path / "none.safetensors")
    with pytest.raises(RunFolderError, match="cannot write"):
        save_supernet(supernet, path / "below a file.pt")


@pytest.mark.parametrize("distils", [False, True])
def test_one_step_adds_up_the_gradients_of_its_subnets_on_one_batch(distils, make_supernet, images):
    first, second = (0, 1, 2, 0, 0, 0, 1, 1), (1, 0, 1, 1, 1, 1, 0, 0)
    recipe = replace(QUICK, epochs=1 / 6, warmup_share=0.0, weight_decay=0.0)
    trained, expected = make_supernet(), make_supernet()
    train_supernet(trained, images, recipe, Fixed(first, second, distils=distils), seed=0)

    inputs, labels = next(batches(images.train, recipe, images, seed=0, device=torch.device("cpu")))
    logits = []
    for genotype in (first, second):
        size = expected.input_shape(genotype)[1:]
        x = functional.interpolate(inputs, size, mode="bilinear", antialias=True)
        logits.append(expected(x, genotype))
    losses = [functional.cross_entropy(each, labels, label_smoothing=0.05) for each in logits]
    if distils:  # the second learns what the first says, and the first nothing from it
        said = logits[0].detach().softmax(dim=1)
        losses[1] = (said * (said.log() - logits[1].log_softmax(dim=1))).sum(dim=1).mean()
    (sum(losses) / 2).backward()
    before = state(expected)
    for key, p in expected.named_parameters():
        step = state(trained)[key] - before[key]
        if p.grad is None:
            assert not step.any(), key
        else:  # Adam's first step goes against the sign of the gradient
            clear = p.grad.abs() > 1e-5
            assert (step.sign() == -p.grad.sign())[clear].all(), key


def test_a_broken_loss_ends_the_training_and_leaves_the_checkpoint(
    make_supernet, image_space, images, tmp_path
):
    supernet, path = make_supernet(), tmp_path / "supernet.safetensors"
    with torch.no_grad():
        supernet.get_parameter("0/conv/weight:Conv2d").fill_(float("nan"))
    way = make_way("single-path", image_space, seed=0)
    with pytest.raises(TrainingDivergedError, match=r"became nan within 1 of 12 steps"):
        train_supernet(supernet, images, QUICK, way, seed=0, checkpoint=path)
    assert not path.exists()


def test_progress_is_told_and_ends_at_one(make_supernet, image_space, images):
    shares = []
    way = make_way("single-path", image_space, seed=0)
    train_supernet(make_supernet(), images, QUICK, way, seed=0, on_progress=shares.append)
    assert shares == pytest.approx([(i + 1) / 12 for i in range(12)])


def test_what_a_supernet_is_not_trained_with_is_refused(
    make_supernet, image_space, token_space, images
):
    way = make_way("single-path", image_space, seed=0)
    with pytest.raises(ConfigError, match="without compile"):
        train_supernet(make_supernet(), images, replace(QUICK, compile=True), way, seed=0)
    with pytest.raises(DataError):
        train_supernet(
            Supernet(token_space), images, QUICK, make_way("fair", token_space, seed=0), seed=0
        )


def test_calibration_takes_the_same_examples_for_every_subnet_at_its_size(images):
    small, large = (list(calibration_batches(images, (1, side, side))) for side in (4, 6))
    assert [len(x) for x in small] == [len(x) for x in large] == [96]
    assert small[0].shape == (96, 1, 4, 4)
    again = next(iter(calibration_batches(images, (1, 6, 6))))
    assert torch.equal(again, large[0])
