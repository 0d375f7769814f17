"""Small models as people write them, each with a batch that it takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.around import space_around


def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(32 * 16, 24),
        nn.Tanh(),
        nn.Linear(24, 10),
    )


class BasicBlock(nn.Module):
    """As in torchvision's ResNet."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            conv = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(n_out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Layer(nn.Module):
    """As in timm's ViT: q, k and v from one linear layer."""

    def __init__(self, features, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.proj = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        n, length, features = x.shape
        size = features // self.heads
        qkv = self.qkv(self.norm1(x)).reshape(n, length, 3, self.heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * size**-0.5).softmax(dim=-1)
        x = x + self.drop(self.proj((weights @ v).transpose(1, 2).reshape(n, length, features)))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(torch.randn(1, 5, 32))
        self.layers = nn.Sequential(*(Layer(32, 4, 64) for _ in range(2)))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


class Branches(nn.Module):
    """Channels side by side, depthwise, in groups, and gated by half of themselves."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 16, 1)
        self.right = nn.Conv2d(16, 24, 5, padding=2)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.mix = nn.Conv2d(40, 32, 1)
        self.norm = nn.GroupNorm(4, 32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.gate = nn.Conv2d(32, 32, 1)
        self.classes = nn.Linear(16 * 64, 10)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = self.mix(self.depthwise(torch.cat([self.left(x), self.right(x)], dim=1)))
        x, gate = self.gate(self.grouped(self.norm(x))).chunk(2, dim=1)
        return self.classes((x * gate.sigmoid()).flatten(1))


class Text(nn.Module):
    """Post-norm, of token ids; two heads from `nn.Linear`s of their own."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.classes = nn.Linear(16, 2)

    def forward(self, ids):
        x = self.tokens(ids)
        q, k, v = (
            part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(found))
        x = self.norm2(x + self.fc2(functional.silu(self.fc1(x))))
        return {"logits": self.classes(x.mean(1)), "hidden": x}


class Encoder(nn.Module):
    """Of PyTorch's own layers, whose attention is another kernel in eval mode."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.layers(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Loops(nn.Module):
    """Stages that add what their blocks give, and pairs of layers, in loops."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = Stage(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)))
        self.layers = Pairs(3)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layers(self.blocks(self.stem(x)).flatten(2).transpose(1, 2)).mean(1))


class Stage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = x + functional.leaky_relu(block(x), 0.1)
        return x


class Pairs(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.pairs = nn.ModuleList(
            nn.ModuleList(
                [nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)]
            )
            for _ in range(n)
        )

    def forward(self, x):
        for qkv, out, fc1, fc2 in self.pairs:
            q, k, v = qkv(x).reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            found = functional.scaled_dot_product_attention(q, k, v)
            x = x + out(found.transpose(1, 2).flatten(2))
            x = x + fc2(functional.gelu(fc1(x)))
        return x


def signals():
    return nn.Sequential(
        nn.Conv1d(2, 16, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5, padding=4, dilation=2),
        nn.BatchNorm1d(32),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def tables():
    layers = (nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(64, 3))


MODELS = {
    "sequential": (sequential, (3, 8, 8)),
    "resnet": (ResNet, (3, 32, 32)),
    "vision_transformer": (VisionTransformer, (3, 8, 8)),
    "branches": (Branches, (3, 8, 8)),
    "encoder": (Encoder, (3, 8, 8)),
    "loops": (Loops, (3, 8, 8)),
    "text": (Text, (6,)),
    "signals": (signals, (2, 30)),
    "tables": (tables, (12,)),
}


@pytest.fixture(scope="session")
def make_model():
    """A model of a name, as after some training, and a batch of four."""

    def make(name):
        factory, shape = MODELS[name]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            model = factory()
            if name == "text":
                return model, torch.randint(0, 50, (4, *shape))
            x = torch.randn(4, *shape)
            with torch.no_grad():
                for _ in range(3):
                    model(x)  # so that batch norms have statistics
        return model, x

    return make


@pytest.fixture(scope="session")
def make_case(make_model):
    """A model of a name, its batch, and the space around it; nobody may change them."""
    cases = {}

    def make(name):
        if name not in cases:
            model, x = make_model(name)
            cases[name] = model, x, space_around(model, x)
        return cases[name]

    return make


@pytest.fixture(params=MODELS)
def case(request, make_case):
    """Each of the models, as `make_case` makes it."""
    return make_case(request.param)
