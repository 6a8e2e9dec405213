"""Measure how long an edit takes: python examples/edit_seconds.py

The image is read, inverted, changed and sampled; the first edit reads the frozen DM and the estimator too.
"""

import time
from importlib import resources
from pathlib import Path

import ditifeat
import ditifeat.model  # the imports of torch and diffusers are not counted


def main() -> None:
    face = next(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
    begun = time.perf_counter()
    encoder = ditifeat.load_encoder()
    smiling = encoder.attributes()["Smiling"]
    for title, options in (
        ("first edit", {}),
        ("next edit", {}),
        ("an edit by DDIM, 100 + 100 steps", {"solver": "ddim", "steps": 100}),
    ):
        ditifeat.edit(encoder, face, smiling, crop="center", **options)
        print(f"{title}: {time.perf_counter() - begun:.2f} s")
        begun = time.perf_counter()


if __name__ == "__main__":
    main()
