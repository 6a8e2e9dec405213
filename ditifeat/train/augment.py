"""SimCLR's augmentations (Chen et al. 2020, appendix A) without a crop, on tensors; every random number comes in.

A crop would change the alignment that face features live on; flip, colour jitter, grey and blur stay.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

DRAWS = 10  # uniform numbers that a view needs

JITTER = 0.5  # strength s: brightness, contrast and saturation by 1 +- 0.8 s, hue by 0.2 s of the circle

JITTER_SHARE, GREY_SHARE, BLUR_SHARE = 0.8, 0.2, 0.5

GREY = (0.299, 0.587, 0.114)  # weights of red, green, blue


def augment(images: Tensor, draws: Tensor) -> Tensor:
    """Make one view of each image.

    Args:
        images: `(B, 3, H, W)` in [-1, 1].
        draws: uniform numbers in [0, 1), `(B, 10)`; the same numbers give the same view.

    Returns:
        `(B, 3, H, W)` in [-1, 1].

    >>> from ditifeat.train.augment import DRAWS, augment
    >>> augment(torch.zeros(2, 3, 32, 32), torch.rand(2, DRAWS)).shape
    torch.Size([2, 3, 32, 32])
    """
    u = draws[:, :, None, None, None].unbind(1)
    x = torch.where(u[0] < 0.5, images.flip(-1), images) / 2 + 0.5
    x = torch.where(u[1] < JITTER_SHARE, _jitter(x, u[2], u[3], u[4], u[5]), x)
    x = torch.where(u[6] < GREY_SHARE, _grey(x).expand_as(x), x)
    x = torch.where(u[7] < BLUR_SHARE, _blur(x, 0.1 + 1.9 * draws[:, 8]), x)
    return x.clamp(0, 1) * 2 - 1


def _grey(x: Tensor) -> Tensor:
    return sum(weight * x[:, i : i + 1] for i, weight in enumerate(GREY))  # type: ignore[return-value]


def _jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order (SimCLR draws the order; for 64 px faces it matters little)."""
    span = 0.8 * JITTER
    factors = [1 + span * (2 * u - 1) for u in (brightness, contrast, saturation)]
    x = (x * factors[0]).clamp(0, 1)
    mean = _grey(x).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * factors[1]).clamp(0, 1)
    grey = _grey(x)
    x = (grey + (x - grey) * factors[2]).clamp(0, 1)
    return _turn_hue(x, 2 * torch.pi * 0.2 * JITTER * (2 * hue[:, :, 0, 0] - 1)).clamp(0, 1)


def _turn_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Turns colours about the grey axis by `angle` `(B, 1)`: Rodrigues' rotation of the RGB cube."""
    cos, sin = angle.cos()[:, :, None, None], angle.sin()[:, :, None, None]
    across = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / 3**0.5  # the grey axis times the colour
    return cos * x + (1 - cos) * x.mean(1, keepdim=True) + sin * across


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image with its own `sigma` `(B,)` pixels; the kernel spans a tenth of the image, as SimCLR's."""
    radius = max(1, x.shape[-1] // 20)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    batch, channels, height, width = x.shape
    flat = functional.pad(x, [radius] * 4, mode="reflect").reshape(1, batch * channels, height + 2 * radius, -1)
    flat = functional.conv2d(flat, kernel[:, :, :, None], groups=batch * channels)
    flat = functional.conv2d(flat, kernel[:, :, None, :], groups=batch * channels)
    return flat.view(batch, channels, height, width)
