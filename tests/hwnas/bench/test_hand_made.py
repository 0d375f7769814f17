from hwnas.bench.hand_made import hand_made, lenet5, mobilenet_v3_small, resnet8
from hwnas.networks import counts


def test_lenet_5_has_the_61_706_parameters_of_its_layers():
    # 6·(25+1) + 16·(6·25+1) + 120·(400+1) + 84·(120+1) + 10·(84+1)
    assert counts(lenet5((1, 28, 28), 10)).params == 61_706


def test_resnet_8_has_a_residual_block_in_each_stage():
    # Convolutions and batch norms (2 a channel): stem; then two of 3×3 each, and the shortcuts.
    stem = 3 * 16 * 9 + 32
    stages = 2 * (16 * 16 * 9 + 32)
    stages += (16 * 32 * 9 + 64) + (32 * 32 * 9 + 64) + (16 * 32 + 64)
    stages += (32 * 64 * 9 + 128) + (64 * 64 * 9 + 128) + (32 * 64 + 128)
    assert counts(resnet8((3, 32, 32), 10)).params == stem + stages + 65 * 10


def test_mobilenet_v3_small_has_the_published_size():
    found = counts(mobilenet_v3_small((3, 224, 224), 1000))
    assert found.params == 2_542_856  # of torchvision's
    assert 54e6 < found.macs < 60e6  # 56 million in the paper


def test_on_28_by_28_all_end_in_the_classes():
    networks = hand_made((1, 28, 28), 10)
    assert list(networks) == ["lenet-5", "resnet-8", "mobilenet-v3-small"]
    assert all(counts(each).out_shape == (10,) for each in networks.values())
    # Strides 1, 1, 2, 2, 2: the last map is 4×4, where all five would leave 1×1.
    assert [b.stride for b in networks["mobilenet-v3-small"].blocks[:3]] == [1, 1, 2]
