"""Reconstruction error against evaluations of the networks and seconds, for several solvers; a Markdown table.

    python examples/solvers.py images.tar --skip 8000 --count 16 --out solvers.md

"DPM-Solver++" is diffusers' multistep solver of second order and its inverse (Lu et al. 2022). The seconds are of one run, so
read them as ratios. `x_T` of a good inversion has deviation 1, as the noise that the DM was trained on.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler
from torch import Tensor

import ditifeat
from ditifeat.analysis.metrics import mse, ssim
from ditifeat.data.batches import batches, load_images
from ditifeat.model.diti import DiTi
from ditifeat.model.sampling import ddim_invert, ddim_sample, fixed_point_invert, fixed_point_sample

Result = tuple[Tensor, Tensor]  # x_T, reconstruction


class Counted:
    """The model's noise select_prefix a code, and how often it was asked for."""

    def __init__(self, model: DiTi, z: Tensor, coefficient: str):
        self.noise = partial(model.noise, z=z, coefficient=coefficient)
        self.calls = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.noise(x_t, t)


def ddim(model: DiTi, noise: Counted, x_0: Tensor, steps: int) -> Result:
    x_T = ddim_invert(noise, model.schedule, x_0, steps, model.codec.bounded)
    return x_T, ddim_sample(noise, model.schedule, x_T, steps, model.codec.bounded)


def fixed_point(model: DiTi, noise: Counted, x_0: Tensor, steps: int) -> Result:
    x_T = fixed_point_invert(noise, model.schedule, x_0, steps)
    return x_T, fixed_point_sample(noise, model.schedule, x_T, steps)


def dpm(model: DiTi, noise: Counted, x_0: Tensor, steps: int, spacing: str) -> Result:
    found = [x_0]
    for kind in (DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler):
        config = model.dm.scheduler | {"prediction_type": "epsilon"}
        scheduler = kind.from_config(config, solver_order=2, **{spacing: True}, timestep_spacing="leading")
        scheduler.set_timesteps(steps)
        x = found[-1]
        for t in scheduler.timesteps:
            x = scheduler.step(noise(x, torch.full((len(x),), int(t))), t, x).prev_sample
        found.append(x)
    return found[1], found[2]


SOLVERS: list[tuple[str, Callable[..., Result], str, int]] = [
    ("DDIM, as published", ddim, "published", 100),
    ("DDIM, as published", ddim, "published", 50),
    ("DDIM, as published", ddim, "published", 20),
    ("DDIM, G times c_t", ddim, "trained", 100),
    ("DDIM, G times c_t", ddim, "trained", 20),
    ("DPM-Solver++", partial(dpm, spacing="use_lu_lambdas"), "trained", 20),
    ("DPM-Solver++, Karras' time-steps", partial(dpm, spacing="use_karras_sigmas"), "trained", 20),
    ("fixed-point, G times sqrt(1 - alpha_bar)", fixed_point, "published", 20),
    ("fixed-point", fixed_point, "trained", 20),
    ("fixed-point", fixed_point, "trained", 10),
    ("fixed-point", fixed_point, "trained", 5),
    ("fixed-point", fixed_point, "trained", 50),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--skip", type=int, default=0, help="pictures that come first, and are not looked at")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--model", help="a name or a folder; the bundled model by default")
    parser.add_argument("--out", type=Path, default=Path("solvers.md"))
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    rows = np.concatenate([rows for _, rows in batches(arguments.data, encoder.config.image, 256)])
    pictures = load_images(rows[arguments.skip : arguments.skip + arguments.count])
    z = encoder(pictures)
    lines = [
        f"{len(pictures)} pictures, {encoder.config.name}; MSE on the scale 0..1.\n",
        "| solver | evaluations | MSE | SSIM | deviation of x_T | seconds |",
        "|---|---|---|---|---|---|",
    ]
    with torch.no_grad():
        for title, solve, coefficient, steps in SOLVERS:
            noise = Counted(encoder.model, z, coefficient)
            begun = time.perf_counter()
            x_T, x_0 = solve(encoder.model, noise, encoder.model.codec.encode(pictures), steps)
            seconds = time.perf_counter() - begun
            again = encoder.model.codec.decode(x_0).clamp(-1, 1)
            error, likeness = float(mse(pictures, again).mean()), float(ssim(pictures, again).mean())
            half = noise.calls // 2
            lines.append(
                f"| {title} | {half} + {noise.calls - half} | {error:.2g} | {likeness:.3f} | {float(x_T.std()):.2f} "
                f"| {seconds:.1f} |"
            )
            print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
