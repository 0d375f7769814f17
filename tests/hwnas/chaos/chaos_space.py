"""Some hundred small networks for digits."""

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.spaces.base import Choice, SearchSpace


def _bottleneck(stage, block):
    def slot(options):
        if block > options[f"depth_{stage}"]:
            return None
        return InvertedResidual(
            out_channels=8 * stage,
            kernel_size=options[f"kernel_{stage}"],
            stride=stage if block == 1 else 1,
            expand_ratio=2,
            squeeze_excite=False,
            activation="relu",
        )

    return slot


def space(input_shape, n_classes):
    return SearchSpace(
        name="chaos",
        choices=(
            Choice("stem", (8, 12, 16)),
            Choice("depth_1", (0, 1, 2)),
            Choice("kernel_1", (3, 5)),
            Choice("depth_2", (1, 2)),
            Choice("kernel_2", (3, 5)),
            Choice("features", (16, 24, 32)),
        ),
        input_shape=lambda options: input_shape,
        slots=(
            lambda options: ConvBlock(options["stem"], 3, 1, "relu"),
            *(_bottleneck(stage, block) for stage in (1, 2) for block in (1, 2)),
            lambda options: ClassifierHead(options["features"], n_classes, "relu"),
        ),
    )
