"""SimCLR's augmentations."""

import torch

from ditifeat.train.augment import DRAWS, augment


def test_augmentations():
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    draws = torch.rand(64, DRAWS)
    views = augment(images, draws)
    assert views.shape == images.shape and views.abs().max() <= 1
    assert torch.equal(views, augment(images, draws))
    assert torch.allclose(augment(images[5:6], draws[5:6]), views[5:6], atol=1e-6)  # whatever the batch
    nothing = torch.ones(1, DRAWS).expand(64, DRAWS) * 0.999
    assert torch.allclose(augment(images, nothing), images, atol=1e-6)
    flipped = nothing.clone()
    flipped[:, 0] = 0
    assert torch.allclose(augment(images, flipped), images.flip(-1), atol=1e-6)
    grey = nothing.clone()
    grey[:, 6] = 0
    assert (augment(images, grey).std(1) < 1e-6).all()
    blurred = nothing.clone()
    blurred[:, 7] = 0
    assert augment(images, blurred).std() < 0.8 * images.std()
    jittered = nothing.clone()
    jittered[:, 1:6] = torch.rand(64, 5) * 0.8
    change = (augment(images, jittered) - images).abs().mean((1, 2, 3))
    assert change.min() > 1e-3 and change.max() < 1
