"""How long one edit takes: the model loaded, a face that our DM made read, inverted, changed and sampled.

python examples/edit_seconds.py
"""

import time
from importlib import resources
from pathlib import Path

import ditifeat.probing

import ditifeat
import ditifeat.model  # the imports of torch and diffusers are not counted


def main() -> None:
    face = next(iter(sorted((Path(str(resources.files("ditifeat.pretrained"))) / "weights" / "faces").glob("*.png"))))
    begun = time.perf_counter()
    encoder = ditifeat.load_encoder()
    attributes = encoder.attributes()
    if attributes is None:
        raise SystemExit(f"{encoder.config.name} has no attributes")
    ditifeat.edit(encoder, face, attributes["Smiling"], crop="center")
    loaded = time.perf_counter()
    ditifeat.edit(encoder, face, attributes["Smiling"], crop="center")
    again = time.perf_counter()
    ditifeat.edit(encoder, face, attributes["Smiling"], crop="center", solver="ddim", steps=100)
    published = time.perf_counter()
    print(f"first edit, weights read: {loaded - begun:.2f} s")
    print(f"next edit: {again - loaded:.2f} s")
    print(f"an edit by DDIM, 100 + 100 steps: {published - again:.2f} s")


if __name__ == "__main__":
    main()
