"""Initialisation of the encoder: the frozen DM's down path, and codes that are whitened or predict the DM's error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.errors import ModelError, RecipeError
from ditifeat.model.codec import UnshuffleCodec, VAECodec
from ditifeat.model.decoded import DecodedEstimator
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi, error_weight
from ditifeat.model.encoders import EncoderNetwork, EncoderSpec, ResidualBlock, ResidualTrunk
from ditifeat.model.partition import TimeStepPartition
from ditifeat.train.allocation import allocate_by_first_loss, without_noise_floor

Autocast = Callable[[], AbstractContextManager[object]]  # makes the context of a precision

INITIALISATION_IMAGES = 16384  # that an initialisation is computed from

COMPONENTS_PER_CODE = 3  # principal components of the head's inputs that codes are made of

# Shares of the mean variance that are added to every component's, so that those which hardly vary are not blown up.
WHITENING_RIDGE = 1e-3

ERROR_RIDGE = 0.5  # more: the codes must not overfit the error of the training images

DECODER_RIDGE = 1e-3


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
        levels=spec.levels,
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
    autocast: Autocast = nullcontext,
) -> Tensor:
    """Set the encoder's head to the codes that best predict, linearly, the frozen DM's error on `images`.

    Reduced-rank regression (Izenman 1975) of the DM's weighted error (DiTi eq. 6) on the head's inputs: the optimum of a
    linear encoder under estimators that are linear at each range of the partition. Of the `d` directions that explain most of
    all ranges' errors, each is allocated to the range where what it explains is first lost (`allocate_by_first_loss`). More
    images tell more than more noises of the same ones.

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
    encoder, partition = model.encoder, model.partition
    inputs, mean = _inputs(encoder, images)
    variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    # The others hardly vary, and the cost of eigenproblems is cubic.
    leading = slice(-COMPONENTS_PER_CODE * partition.d, None)
    white = (components / (variances + ERROR_RIDGE * variances.mean()).sqrt())[:, leading]
    ranges = [_time_steps(partition, lo, hi) for lo, hi in partition.ranges]
    explained = [_explained_error(model, images, inputs @ white, r, weighting, seed, autocast) for r in ranges]
    dims = [partition.dims_of_time_steps(lo, hi) for lo, hi in partition.ranges]
    weighted = [len(r) * e for r, e in zip(ranges, explained, strict=True)]
    directions = allocate_by_first_loss(weighted, [d.stop - d.start for d in dims])
    amplitudes = [
        _relative_std((directions[:, d] * (e @ directions[:, d])).sum(0)) for d, e in zip(dims, explained, strict=True)
    ]
    weight = white @ directions
    weight = weight / weight.norm(dim=0)
    std = (inputs @ weight).std(0)
    scale = std.square().mean().sqrt().clamp(min=1e-6)
    _set_head(encoder, mean, weight / scale)
    factors = torch.cat(amplitudes) / (std / scale).clamp(min=1e-3).float()
    return factors.to(encoder.head.weight.device)


@torch.no_grad()
def initialise_decoder(model: DiTi, images: Tensor) -> None:
    """Set a decoded estimator's `D` to the least-squares decoder of `images` from their cumulative codes.

    One linear decoder for all ranges of the partition: the sum over ranges of `|| x_0 - D(z_bar) ||^2`, with a small ridge, in
    the DM's space and at the resolution that `D` decodes to.

    Args:
        model: with an initialised encoder and a decoded estimator.
        images: `(N, 3, S, S)` in [-1, 1].
    """
    decoder = cast(DecodedEstimator, model.estimator).decoder
    device = _linear_algebra_device(model.mean.device)
    codes, targets = [], []
    for part in images.split(256):
        part = part.to(model.mean.device)
        x_0 = model.codec.encode(part)
        if decoder.decoded != decoder.shape:
            x_0 = functional.adaptive_avg_pool2d(x_0, decoder.decoded[1:])
        codes.append(model.encoder(part).to(device))
        targets.append(x_0.flatten(1).to(device))
    z, x = torch.cat(codes).double(), torch.cat(targets)
    mean_z, mean_x = z.mean(0), x.mean(0)
    z = z - mean_z
    products = z.float().T @ (x - mean_x)
    # A range's cumulative code keeps the dimensions of the subsets that begin before its end.
    ends = torch.tensor([model.partition.dims_of_time_steps(lo, hi).stop for lo, hi in model.partition.ranges])
    kept = (torch.arange(z.shape[1]) < ends[:, None]).double().to(device)  # (ranges, d)
    moments = (z.T @ z) * (kept.T @ kept)
    ridge = DECODER_RIDGE * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype, device=device)
    weight = torch.linalg.solve(moments + ridge, products.double() * kept.sum(0)[:, None])
    decoder.linear.weight.copy_(weight.T)
    decoder.linear.bias.copy_(mean_x - (mean_z @ weight).to(mean_x.dtype))


def _time_steps(partition: TimeStepPartition, lo: int, hi: int) -> range:
    """The time-steps of the subsets that begin within `lo..hi-1`; one subset may serve more than the range that it begins in."""
    subsets = partition.subsets_of_time_steps(lo, hi)
    return range(partition.time_steps_of_subset(subsets[0]).start, partition.time_steps_of_subset(subsets[-1]).stop)


def _inputs(encoder: EncoderNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder's head reads, centred, float64 `(N, inputs)`, and their mean."""
    device = encoder.head.weight.device
    inputs = torch.cat(
        [encoder.inputs(part.to(device)).to(_linear_algebra_device(device)).double() for part in images.split(256)]
    )
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
    autocast: Autocast,
) -> Tensor:
    """How much of the DM's weighted error each direction of white inputs explains, at one random time-step per image.

    Float64 `(inputs, inputs)`: the inputs' covariance with the error, `(inputs, C * h * w)`, times its transpose, less what
    finite samples add to it.
    """
    schedule, device = model.dm.schedule, model.mean.device
    generator = torch.Generator().manual_seed(seed)
    covariance = torch.zeros(white.shape[1], *model.noise_shape, device=device).flatten(1)
    energy, mean = torch.zeros((), device=device), torch.zeros_like(covariance[0])
    for part, known in zip(images.split(256), white.float().split(256), strict=True):
        x_0 = model.dm.codec.encode(part.to(device))
        t = torch.randint(time_steps.start, time_steps.stop, (len(part),), generator=generator).to(device)
        noise = torch.randn((len(part), *model.noise_shape), generator=generator).to(device)
        with autocast():
            frozen = model.frozen_noise(schedule.add_noise(x_0, noise, t), t).float()
        error = (noise - frozen).flatten(1)
        error *= error_weight(schedule, weighting, t, error.square().mean(1)).sqrt()[:, None]
        covariance += known.to(device).T @ error / len(images)
        energy += error.square().sum() / len(images)
        mean += error.sum(0) / len(images)
    # White inputs are centred, so that the mean error adds nothing to the covariance.
    return without_noise_floor(covariance.to(white.device), white, float(energy - mean.square().sum()))


def _linear_algebra_device(device: torch.device) -> torch.device:
    """Where float64 is computed: MPS has none."""
    return device if device.type == "cuda" else torch.device("cpu")


def _set_head(encoder: EncoderNetwork, mean: Tensor, weight: Tensor) -> None:
    """Codes are from now on the inputs less their `mean`, times `weight` `(inputs, d)`."""
    head = encoder.head
    head.weight.copy_(weight.T)
    head.bias.copy_(-mean @ weight)


def _relative_std(variances: Tensor) -> Tensor:
    """Standard deviations, float32, divided by their root mean square; all 1 where nothing varies."""
    std = variances.clamp(min=0).sqrt()
    return (std / std.square().mean().sqrt()).float() if std.any() else torch.ones_like(std).float()
