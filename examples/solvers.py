"""Compare solvers: reconstruction error against evaluations of the networks, as a Markdown table.

    python examples/solvers.py images.tar --skip 8000 --count 16

"DPM-Solver++" is diffusers' second-order multistep solver and its inverse (Lu et al. 2022). The seconds are of one run, so read
them as ratios. `x_T` of a good inversion has standard deviation 1, as the noise that the DM was trained on.
"""

import argparse
import time
from functools import partial
from itertools import islice

import numpy as np
import torch
from diffusers import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler

import ditifeat
from ditifeat.analysis.metrics import mse, ssim
from ditifeat.data.batches import batches, load_images
from ditifeat.model.sampling import ddim_invert, ddim_sample, fixed_point_invert, fixed_point_sample

SOLVERS = (  # title, kind, coefficient of G, steps
    *(("DDIM, as published", "ddim", "published", steps) for steps in (100, 50, 20)),
    *(("DDIM, G times c_t", "ddim", "trained", steps) for steps in (100, 20)),
    ("DPM-Solver++", "use_lu_lambdas", "trained", 20),
    ("DPM-Solver++, Karras' time-steps", "use_karras_sigmas", "trained", 20),
    ("fixed-point, G times sqrt(1 - alpha_bar)", "fixed_point", "published", 20),
    *(("fixed-point", "fixed_point", "trained", steps) for steps in (20, 10, 5, 50)),
)


def round_trip(model, noise, x_0, kind, steps):
    """`x_T` of `x_0`, and what is sampled from it."""
    if kind in ("ddim", "fixed_point"):
        invert, sample = {"ddim": (ddim_invert, ddim_sample), "fixed_point": (fixed_point_invert, fixed_point_sample)}[
            kind
        ]
        x_T = invert(noise, model.schedule, x_0, steps)
        return x_T, sample(noise, model.schedule, x_T, steps)
    states = [x_0]
    for scheduler_class in (DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler):
        config = model.dm.scheduler | {"prediction_type": "epsilon"}
        scheduler = scheduler_class.from_config(config, **{kind: True}, timestep_spacing="leading")
        scheduler.set_timesteps(steps)
        x = states[-1]
        for t in scheduler.timesteps:
            x = scheduler.step(noise(x, torch.full((len(x),), int(t))), t, x).prev_sample
        states.append(x)
    return states[1], states[2]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder or .tar of images")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first N images")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    model, stream = encoder.model, batches(arguments.images, encoder.config.image, 1)
    rows = islice(stream, arguments.skip, arguments.skip + arguments.count)
    images = load_images(np.concatenate([row for _, row in rows]))
    z, x_0 = encoder(images), model.codec.encode(images)
    print(f"{len(images)} images, {encoder.config.name}; MSE on the scale 0..1.\n")
    print("| solver | evaluations | MSE | SSIM | standard deviation of x_T | seconds |\n|---|---|---|---|---|---|")
    for title, kind, coefficient, steps in SOLVERS:
        begun = time.perf_counter()
        x_T, found = round_trip(model, partial(model.noise, z=z, coefficient=coefficient), x_0, kind, steps)
        seconds, made = time.perf_counter() - begun, model.codec.decode(found).clamp(-1, 1)
        scores = f"{float(mse(images, made).mean()):.2g} | {float(ssim(images, made).mean()):.3f}"
        print(f"| {title} | {steps} + {steps} | {scores} | {float(x_T.std()):.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
