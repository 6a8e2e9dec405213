"""Initialisation of the encoder: the frozen DM's down path, and codes that are whitened or predict the DM's error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ditifeat.errors import ModelError, RecipeError
from ditifeat.model.codec import UnshuffleCodec, VAECodec
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi, error_weight
from ditifeat.model.encoders import EncoderNetwork, EncoderSpec, ResidualBlock, ResidualTrunk
from ditifeat.model.partition import TimeStepPartition

INITIALISATION_IMAGES = 8192  # that an initialisation is computed from

# Shares of the mean variance that are added to every component's, so that those which hardly vary are not blown up.
WHITENING_RIDGE = 1e-3

ERROR_RIDGE = 1e-1  # more: the codes must not overfit the error of the training images


@torch.no_grad()
def initialise_from_dm(encoder: EncoderNetwork, spec: EncoderSpec, dm: DiffusionModel, time_step: int = 50) -> None:
    """Give an encoder of style "residual" the weights of the DM's down path, with a time-step's embedding folded in.

    Clean images are encoded, so an early time-step fits.

    Raises:
        RecipeError: if the encoder's layers are not those of the DM.
    """
    unet = dm.unet
    config = unet.config
    factor = dm.codec.factor if isinstance(dm.codec, UnshuffleCodec) else 1
    wanted = EncoderSpec(
        tuple(config.block_out_channels),
        style="residual",
        layers=config.layers_per_block,
        unshuffle=factor,
    )
    if (
        spec != wanted
        or any(kind != "DownBlock2D" for kind in config.down_block_types)
        or isinstance(dm.codec, VAECodec)
    ):
        raise RecipeError(f"encoder_from_dm: this DM's down path needs the encoder {wanted}, and no attention in it")
    embedding = unet.time_embedding(unet.time_proj(torch.tensor([time_step], device=unet.device)))
    trunk = cast(ResidualTrunk, encoder.trunk)
    ours = iter(layer for layer in trunk if isinstance(layer, nn.Conv2d | ResidualBlock))
    next(ours).load_state_dict(unet.conv_in.state_dict())
    for block in unet.down_blocks:
        for theirs in block.resnets:
            _copy_block(cast(ResidualBlock, next(ours)), theirs, embedding)
        for sampler in block.downsamplers or ():
            next(ours).load_state_dict(sampler.conv.state_dict())


def _copy_block(ours: ResidualBlock, theirs: ResnetBlock2D, embedding: Tensor) -> None:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    if theirs.conv_shortcut is not None:
        ours.shortcut.load_state_dict(theirs.conv_shortcut.state_dict())
    # What is added for the time-step is a constant here, like a bias.
    ours.conv1.bias += theirs.time_emb_proj(theirs.nonlinearity(embedding))[0]


@torch.no_grad()
def initialise_whitened(encoder: EncoderNetwork, images: Tensor) -> Tensor:
    """Set the encoder's head so that codes of `images` `(N, 3, S, S)` are white: uncorrelated, mean 0, std 1.

    They are the principal components of the head's input, scaled to equal variance, the largest last: what varies most
    is coarse, and belongs to late time-steps. A random head's codes vary along few directions, and training lowers their
    effective rank further before it raises it.

    Returns:
        `(d,)`: each code's standard deviation before it was scaled, divided by their root mean square.

    Raises:
        ModelError: if the head has fewer inputs than codes, or the images are all alike.
    """
    inputs, mean = _inputs(encoder, images)
    variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    kept = slice(-encoder.head.out_features, None)
    weight = components[:, kept] / (variances[kept] + WHITENING_RIDGE * variances[kept].mean()).sqrt()
    std = (inputs @ weight).std(0)
    # Directions in which these images do not vary, as few images have many, are not scaled up: others may vary there.
    _set_head(encoder, mean, weight / torch.where(std < 1e-2, 1.0, std))
    return _relative_std(variances[kept]).to(encoder.head.weight.device)


@torch.no_grad()
def initialise_error_predictive(
    model: DiTi,
    images: Tensor,
    weighting: str = "published",
    *,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Set the encoder's head to the codes that best predict, linearly, the frozen DM's error on `images`.

    Reduced-rank regression (Izenman 1975) of the DM's weighted error (DiTi eq. 6) on the head's inputs: the optimum of a
    linear encoder under estimators that are linear at each range of the partition. The `d` directions that explain most of
    all ranges' errors are allocated from the first range to the last: each gets those that explain most of its own error
    and are not taken, as its cumulative code holds the earlier ones; inside a range, what explains most comes first.

    Codes are nearly uncorrelated and keep the scale that the head's inputs have along their directions, so that codes of
    low variance stay so in probes and distances; root mean square 1 over all codes.

    Args:
        model: with the encoder to initialise and the frozen DM.
        images: `(N, 3, S, S)` in [-1, 1].
        weighting: of the errors, as in `DiTi.losses`.
        seed: of the time-steps and noise.
        autocast: the precision that the DM runs in.

    Returns:
        `(d,)`: what to multiply each code by for its standard deviation to be the root of the error that it explains,
        relative to the root mean square of its range.

    Raises:
        ModelError: if the head has fewer inputs than codes, or the images are all alike.
    """
    encoder = model.encoder
    inputs, mean = _inputs(encoder, images)
    variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    white = components / (variances + ERROR_RIDGE * variances.mean()).sqrt()
    ranges = [_time_steps(model.partition, lo, hi) for lo, hi in model.partition.ranges]
    explained = [_explained_error(model, images, inputs @ white, r, weighting, seed, autocast) for r in ranges]
    total = sum((len(r) * e for r, e in zip(ranges, explained, strict=True)), torch.zeros_like(explained[0]))
    free = torch.linalg.eigh(total)[1][:, -model.partition.d :]
    allocated, amplitudes = [], []
    for (lo, hi), e in zip(model.partition.ranges, explained, strict=True):
        dims = model.partition.dims_of_time_steps(lo, hi)
        gains, directions = torch.linalg.eigh(free.T @ e @ free)
        directions = free @ directions.flip(1)
        allocated.append(directions[:, : dims.stop - dims.start])
        free = directions[:, dims.stop - dims.start :]
        amplitudes.append(_relative_std(gains.flip(0)[: dims.stop - dims.start]))
    weight = white @ torch.cat(allocated, 1)
    weight = weight / weight.norm(dim=0)
    std = (inputs @ weight).std(0)
    scale = std.square().mean().sqrt().clamp(min=1e-6)
    _set_head(encoder, mean, weight / scale)
    factors = torch.cat(amplitudes) / (std / scale).clamp(min=1e-3).float()
    return factors.to(encoder.head.weight.device)


def _time_steps(partition: TimeStepPartition, lo: int, hi: int) -> range:
    """The time-steps of the subsets that begin within `lo..hi-1`; one subset may serve more than the range that it begins in."""
    subsets = partition.subsets_of_time_steps(lo, hi)
    return range(partition.time_steps_of_subset(subsets[0]).start, partition.time_steps_of_subset(subsets[-1]).stop)


def _inputs(encoder: EncoderNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder's head reads, centred, float64 `(N, inputs)` on the CPU, and their mean."""
    device = encoder.head.weight.device
    # MPS has no float64.
    inputs = torch.cat([encoder.inputs(part.to(device)).cpu().double() for part in images.split(256)])
    if inputs.shape[1] < encoder.head.out_features:
        raise ModelError(f"{inputs.shape[1]} inputs of the encoder's head do not make more codes than they are")
    mean = inputs.mean(0)
    inputs = inputs - mean
    if not inputs.abs().max() > 1e-6:
        raise ModelError(
            f"{len(images)} images that are all alike do not initialise codes; give others, or codes: random"
        )
    return inputs, mean


def _explained_error(
    model: DiTi,
    images: Tensor,
    white: Tensor,
    time_steps: range,
    weighting: str,
    seed: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Tensor:
    """How much of the DM's weighted error each direction of white inputs explains, at one random time-step per image.

    Float64 `(inputs, inputs)`: the inputs' covariance with the error, `(inputs, C * h * w)`, times its transpose.
    """
    schedule, device = model.dm.schedule, model.mean.device
    generator = torch.Generator().manual_seed(seed)
    covariance = torch.zeros(white.shape[1], *model.noise_shape, device=device).flatten(1)
    for part, known in zip(images.split(256), white.float().split(256), strict=True):
        t = torch.randint(time_steps.start, time_steps.stop, (len(part),), generator=generator).to(device)
        noise = torch.randn((len(part), *model.noise_shape), generator=generator).to(device)
        x_t = schedule.add_noise(model.dm.codec.encode(part.to(device)), noise, t)
        with autocast():
            frozen = model.frozen_noise(x_t, t).float()
        error = (noise - frozen).flatten(1)
        weight = error_weight(schedule, weighting, t, error.square().mean(1))
        covariance += known.to(device).T @ (weight.sqrt()[:, None] * error) / len(images)
    return (covariance @ covariance.T).cpu().double()


def _set_head(encoder: EncoderNetwork, mean: Tensor, weight: Tensor) -> None:
    """Codes are from now on the inputs less their `mean`, times `weight` `(inputs, d)`."""
    head = encoder.head
    head.weight.copy_(weight.T)
    head.bias.copy_(-mean @ weight)


def _relative_std(variances: Tensor) -> Tensor:
    """Standard deviations, float32, divided by their root mean square."""
    std = variances.clamp(min=0).sqrt()
    return (std / std.square().mean().sqrt()).float()
