"""The attribute classifier of the edit evaluation: a small CNN on pixels, which never sees an encoder's features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.split import Split, in_batches
from ditifeat.data.batches import load_images
from ditifeat.files import load_strictly
from ditifeat.model.encoders import EncoderSpec, build_encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierSpec:
    """All that decides a classifier but its training images and labels.

    Attributes:
        encoder: its network, whose last layer gives a logit per attribute.
        epochs: over the training images.
        batch: images per step.
        lr: peak learning rate of AdamW, under a one-cycle schedule.
        weight_decay: AdamW's.
        shift: largest random shift of training images, in pixels; they are flipped at random too.
        seed: of weights, order, shifts and flips.
    """

    encoder: EncoderSpec = EncoderSpec((32, 64, 128, 256))
    epochs: int = 10
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    shift: int = 4
    seed: int = 0


SPEC = ClassifierSpec()


class AttributeClassifier(nn.Module):
    """Logits of attributes, and the features they are a linear function of.

    Args:
        size: side of the images, in pixels.
        attributes: how many.
        spec: its network.

    >>> from ditifeat.benchmark.classifier import AttributeClassifier
    >>> AttributeClassifier(32, 40)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 40])
    """

    def __init__(self, size: int, attributes: int, spec: ClassifierSpec = SPEC):
        super().__init__()
        self.network = build_encoder(spec.encoder, size, attributes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, attributes)` of images `(B, 3, S, S)` in [-1, 1]."""
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, averaged over space: `(B, 256)`."""
        return self.network.trunk(images).mean((2, 3))


def load_classifier(
    split: Split, cache: Cache, device: torch.device | str = "cpu", spec: ClassifierSpec = SPEC
) -> AttributeClassifier:
    """Load the classifier of a split's training rows; at the first call with this split and `spec` it is trained.

    Args:
        split: the images, of which those that train are seen.
        cache: where it is kept.
        device: a torch device.
        spec: how it is built and trained.

    >>> from ditifeat.benchmark.classifier import load_classifier
    >>> classifier = load_classifier(split, Cache(Path("table/cache")))  # doctest: +SKIP
    """

    def train() -> Mapping[str, Tensor]:
        return train_classifier(split, device, spec).state_dict()

    tensors = cache.tensors("classifier", split.key, spec, make=train)
    with torch.device("meta"):
        classifier = AttributeClassifier(split.images.shape[1], len(split.attributes), spec)
    load_strictly(classifier, tensors, "the attribute classifier")
    return classifier.to(device).eval().requires_grad_(False)


def train_classifier(
    split: Split, device: torch.device | str = "cpu", spec: ClassifierSpec = SPEC
) -> AttributeClassifier:
    """Train on the split's training rows by cross-entropy per attribute; an unknown label adds nothing.

    Order, flips and shifts are drawn on the CPU, so every device learns the same up to its rounding.
    """
    images, targets = split.images[split.train], torch.from_numpy(split.targets[split.train]).float()
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)  # the CPU's alone
        classifier = AttributeClassifier(images.shape[1], targets.shape[1], spec).to(device)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    steps = spec.epochs * -(-len(images) // spec.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.lr, total_steps=steps)
    for epoch in range(spec.epochs):
        for rows in torch.randperm(len(images), generator=generator).split(spec.batch):
            shown = _augmented(load_images(images[rows.numpy()], device), spec.shift, generator)
            loss = _cross_entropy(classifier(shown), targets[rows].to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        logger.info("attribute classifier: epoch %d of %d, loss %.4f", epoch + 1, spec.epochs, loss.detach())
    return classifier.eval().requires_grad_(False)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the known targets."""
    known = targets.isfinite()
    losses = functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _augmented(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Shifted together by up to `shift` pixels, and each flipped with probability 1/2."""
    side = images.shape[-1]
    top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, (shift,) * 4, mode="replicate")
    shifted = padded[..., top : top + side, left : left + side]
    flipped = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flipped[:, None, None, None], shifted.flip(3), shifted)


def logits(classifier: AttributeClassifier, images: np.ndarray) -> np.ndarray:
    """Compute logits `(n, attributes)` of uint8 images `(n, S, S, 3)`."""
    return in_batches(classifier, images, _device(classifier))


def classifier_features(classifier: AttributeClassifier, images: np.ndarray) -> np.ndarray:
    """Compute features `(n, 256)` of uint8 images `(n, S, S, 3)`."""
    return in_batches(classifier.features, images, _device(classifier))


def _device(classifier: AttributeClassifier) -> torch.device:
    return next(classifier.parameters()).device
