"""The judge of edits: a small CNN trained on pixels for the attributes, which never sees our features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ditifeat.benchmark.baselines import in_batches
from ditifeat.data.batches import load_images
from ditifeat.files import load_strictly, read_tensors, write_tensors
from ditifeat.model.encoders import EncoderSpec, build_encoder

SPEC = EncoderSpec((32, 64, 128, 256))

EPOCHS = 10

BATCH = 64

LEARNING_RATE = 1e-3

SHIFT = 4  # pixels


class AttributeClassifier(nn.Module):
    """Log-odds of attributes, and the features select_prefix them.

    Args:
        size: of the pictures, which are square.
        attributes: how many.
    """

    def __init__(self, size: int, attributes: int):
        super().__init__()
        self.network = build_encoder(SPEC, size, attributes)

    def forward(self, images: Tensor) -> Tensor:
        """Log-odds `(B, attributes)` of images `(B, 3, S, S)` in [-1, 1]."""
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, averaged over space: `(B, 256)`."""
        return self.network.trunk(images).mean((2, 3))


def train_classifier(
    array: np.ndarray, targets: np.ndarray, seed: int = 0, epochs: int = EPOCHS
) -> AttributeClassifier:
    """A judge of uint8 pictures `(n, S, S, 3)` and their attributes, 0 or 1, `(n, attributes)`; mirrored and shifted as it learns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = AttributeClassifier(array.shape[1], targets.shape[1])
    steps = epochs * -(-len(array) // BATCH)
    adam = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LEARNING_RATE, total_steps=steps)
    wanted = torch.from_numpy(targets).float()
    with tqdm(total=steps, desc="judge", unit="step", mininterval=5) as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(array), generator=generator).split(BATCH):
                images = _moved(load_images(array[rows.numpy()]), generator)
                loss = functional.binary_cross_entropy_with_logits(judge(images), wanted[rows])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                schedule.step()
                bar.update()
    return judge.eval().requires_grad_(False)


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    side = images.shape[-1]
    top, left = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, (SHIFT,) * 4, mode="replicate")
    moved = padded[..., top : top + side, left : left + side]
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], moved.flip(3), moved)


def cached_classifier(path: Path, array: np.ndarray, targets: np.ndarray) -> AttributeClassifier:
    """The judge that lies at `path`, or a new one that is put there."""
    if not path.exists():
        write_tensors(path, train_classifier(array, targets).state_dict())
    judge = AttributeClassifier(array.shape[1], targets.shape[1])
    load_strictly(judge, read_tensors(path)[0], str(path))
    return judge.eval().requires_grad_(False)


def classifier_logits(judge: AttributeClassifier, array: np.ndarray) -> np.ndarray:
    """Log-odds `(n, attributes)` of uint8 pictures."""
    return in_batches(judge, array)
