"""Fine-tune the encoder's head for classes in folders: python examples/fine_tune.py photos/ --epochs 20

`photos/cats/*.jpg` and `photos/dogs/*.jpg` are two classes. The trunk stays as it is; its output is computed once, so that epochs take
no time. A classifier on the codes is trained first alone, a linear probe, then together with the head.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.files import write_tensors


def train(network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, lr: float) -> None:
    """Minimise cross-entropy over the parameters that require gradients."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds one folder of images per class")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--out", type=Path, default=Path("head.safetensors"))
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    paths = sorted(path for path in arguments.folder.glob("*/*") if path.is_file())
    classes = sorted({path.parent.name for path in paths})
    y = torch.tensor([classes.index(path.parent.name) for path in paths])
    with torch.no_grad():
        stream = batches(paths, encoder.config.image, 64, "center")
        x = torch.cat([encoder.network.inputs(load_images(pixels, encoder.device)).cpu() for _, pixels in stream])
    rows, test = train_test_split(np.arange(len(y)), stratify=y, random_state=0)

    head, mean, std = encoder.network.head.cpu(), encoder.mean, encoder.std.square().mean().sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = nn.Linear(encoder.partition.d, len(classes))
    standardised = nn.Linear(encoder.partition.d, encoder.partition.d)
    standardised.weight.data, standardised.bias.data = head.weight / std, (head.bias - mean) / std
    network = nn.Sequential(standardised.requires_grad_(False), classifier)
    print(f"{len(y)} images, {len(classes)} classes; accuracy on {len(test)} that nothing was trained on")
    for title, tuned, lr in (("linear probe", False, 1e-2), ("head fine-tuned too", True, 1e-4)):
        train(network.requires_grad_(True) if tuned else network, x[rows], y[rows], arguments.epochs, lr)
        with torch.no_grad():
            print(f"  {title}: {float((network(x[test]).argmax(1) == y[test]).float().mean()):.3f}")
    write_tensors(arguments.out, {key: value.contiguous() for key, value in network.state_dict().items()})
    print(f"{arguments.out}: the head, standardised, and the classifier of {', '.join(classes)}")


if __name__ == "__main__":
    main()
