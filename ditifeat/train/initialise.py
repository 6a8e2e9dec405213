"""Where the encoder's training may begin: from the frozen DM's down path, with codes that are white or tell what is lost."""

from __future__ import annotations

from typing import cast

import torch
from accelerate import Accelerator
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ditifeat.errors import ModelError, RecipeError
from ditifeat.model.codec import UnshuffleCodec, VAECodec
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi, Weighting, error_weight
from ditifeat.model.encoders import EncoderNetwork, EncoderSpec, ResidualBlock, ResidualTrunk
from ditifeat.model.partition import TimeStepPartition

STARTED_ON = 8192  # pictures, of which a start is worked out

# Shares of the mean variance that are added to every component's, so that those which hardly vary are not blown up.
WHITE_RIDGE = 1e-3

LOST_RIDGE = 1e-1  # more: they must not tell the error of the training pictures by heart


@torch.no_grad()
def encoder_from_dm(encoder: EncoderNetwork, spec: EncoderSpec, dm: DiffusionModel, time_step: int = 50) -> None:
    """Gives an encoder of style "residual" the weights of the DM's down path, with a time-step's embedding folded in.

    Clean pictures are encoded, so an early time-step fits.

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
        flip_average=spec.flip_average,
    )
    if (
        spec != wanted
        or any(kind != "DownBlock2D" for kind in config.down_block_types)
        or isinstance(dm.codec, VAECodec)
    ):
        raise RecipeError(f"encoder_from_dm: this DM's down path needs the encoder {wanted}, and no attention in it")
    embedding = unet.time_embedding(unet.time_proj(torch.tensor([time_step])))
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
def initialise_white(encoder: EncoderNetwork, images: Tensor) -> Tensor:
    """Sets the encoder's head so that codes of `images` `(N, 3, S, S)` begin white: uncorrelated, mean 0, std 1.

    They are the principal components of the layer's input, scaled to equal variance, the largest last: what varies most
    is coarse, and belongs to late time-steps. A random layer's codes vary along few directions, and training them narrows
    these further before it widens them.

    Returns:
        `(d,)`: how much each code varied before it was scaled, root mean square 1.
    """
    inputs, mean = _inputs(encoder, images)
    variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    kept = slice(-encoder.head.out_features, None)  # type: ignore[operator]
    weight = components[:, kept] / (variances[kept] + WHITE_RIDGE * variances[kept].mean()).sqrt()
    _set_last(encoder, mean, weight / (inputs @ weight).std(0).clamp(min=1e-6))
    return _sizes(variances[kept])


@torch.no_grad()
def initialise_error_predictive(
    model: DiTi, images: Tensor, weighting: Weighting = "published", seed: int = 0
) -> Tensor:
    """Sets the encoder's head to the codes that best tell, linearly, what the frozen DM has lost of `images` `(N, 3, S, S)`.

    Reduced-rank regression (Izenman 1975) of the DM's weighted error (DiTi eq. 6) on the layer's inputs: the optimum of a
    linear encoder select_prefix estimators that are linear at each range of the partition. The `d` directions that tell most of
    all ranges' errors are shared out in turn: each range gets those that tell most of its own error and are not taken,
    as its cumulative code holds the earlier ones; what tells most comes first.

    Codes are nearly uncorrelated and keep the scale that the layer's inputs have along their directions, so that what is
    small and noisy stays small to probes and distances; root mean square 1 over all codes.

    Returns:
        `(d,)`: what to multiply each code by, that it varies as much as it tells of its range's error; then root mean square
        1 over a range.
    """
    encoder = model.encoder
    inputs, mean = _inputs(encoder, images)
    variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    white = components / (variances + LOST_RIDGE * variances.mean()).sqrt()
    ranges = [_time_steps(model.partition, lo, hi) for lo, hi in model.partition.ranges]
    told = [_explained_error(model, images, inputs @ white, range_, weighting, seed) for range_ in ranges]
    all_told = sum((len(range_) * t for range_, t in zip(ranges, told, strict=True)), torch.zeros_like(told[0]))
    free = torch.linalg.eigh(all_told)[1][:, -model.partition.d :]
    shares, amplitudes = [], []
    for (lo, hi), t in zip(model.partition.ranges, told, strict=True):
        dims = model.partition.dims_of_time_steps(lo, hi)
        gains, directions = torch.linalg.eigh(free.T @ t @ free)
        directions = free @ directions.flip(1)
        shares.append(directions[:, : dims.stop - dims.start])
        free = directions[:, dims.stop - dims.start :]
        amplitudes.append(_sizes(gains.flip(0)[: dims.stop - dims.start]))
    weight = white @ torch.cat(shares, 1)
    weight = weight / weight.norm(dim=0)
    deviation = (inputs @ weight).std(0)
    size = deviation.square().mean().sqrt().clamp(min=1e-6)
    _set_last(encoder, mean, weight / size)
    return torch.cat(amplitudes) / (deviation / size).clamp(min=1e-3).float()


def _time_steps(partition: TimeStepPartition, lo: int, hi: int) -> range:
    """The time-steps of the subsets that begin within `lo..hi-1`; one subset may serve more than the range that it begins in."""
    subsets = partition.subsets_of_time_steps(lo, hi)
    return range(partition.time_steps_of_subset(subsets[0]).start, partition.time_steps_of_subset(subsets[-1]).stop)


def _inputs(encoder: EncoderNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of the encoder's head, centred, float64 `(N, inputs)`, and their mean."""
    inputs = torch.cat([encoder.inputs(part) for part in images.split(256)]).double()
    if inputs.shape[1] < encoder.head.out_features:  # type: ignore[operator]
        raise ModelError(f"{inputs.shape[1]} inputs of the encoder's head do not make more codes than they are")
    mean = inputs.mean(0)
    return inputs - mean, mean


def _explained_error(
    model: DiTi, images: Tensor, white: Tensor, time_steps: range, weighting: Weighting, seed: int
) -> Tensor:
    """How much of the DM's weighted error each direction of white inputs tells, at one random time-step a picture.

    Float64 `(inputs, inputs)`: the inputs' covariance with the error, `(inputs, C * h * w)`, times its transpose.
    """
    schedule = model.dm.schedule
    generator = torch.Generator().manual_seed(seed)
    autocast = Accelerator().autocast
    covariance = torch.zeros(white.shape[1], *model.noise_shape).flatten(1)
    for part, known in zip(images.split(256), white.float().split(256), strict=True):
        t = torch.randint(time_steps.start, time_steps.stop, (len(part),), generator=generator)
        noise = torch.randn((len(part), *model.noise_shape), generator=generator)
        x_t = schedule.add_noise(model.dm.codec.encode(part), noise, t)
        with autocast():  # the run's own precision
            frozen = model.frozen_noise(x_t, t).float()
        error = (noise - frozen).flatten(1)
        weight = error_weight(schedule, weighting, t, error.square().mean(1))
        covariance += known.T @ (weight.sqrt()[:, None] * error) / len(images)
    return (covariance @ covariance.T).double()


def _set_last(encoder: EncoderNetwork, mean: Tensor, weight: Tensor) -> None:
    """Codes are from now on the inputs less their `mean`, times `weight` `(inputs, d)`."""
    last = encoder.head
    last.weight.copy_(weight.T)
    last.bias.copy_(-mean @ weight)


def _sizes(variances: Tensor) -> Tensor:
    sizes = variances.clamp(min=0).sqrt()
    return (sizes / sizes.square().mean().sqrt()).float()
