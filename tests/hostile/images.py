"""Damaged images: a result or `ImageDecodeError`, whatever the bytes are."""

import io

import numpy as np
from PIL import Image, ImageCms

from ditifeat.data.decode import decode, is_image
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import ImageDecodeError
from tests.hostile import mutate
from tests.hostile.harness import Failed, outcome, rng_of

GRAMMAR = {"png": mutate.mutate_png, "tiff": mutate.mutate_tiff, "jpeg": mutate.mutate_jpeg}

FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")

MORE_FORMATS = ("ppm", "heic")  # which are read too


def drawn_image(mode="RGB", size=(48, 40), seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    image = Image.fromarray(small, "RGBA").resize(size, Image.Resampling.BICUBIC)
    if mode in ("I;16", "I;16B"):
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image if mode == "RGBA" else image.convert("LAB" if mode == "LAB" else "RGB").convert(mode)


def seeds(kind):
    """Small good files of a format, of all the ways in which it is written."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [drawn_image(seed=1), drawn_image(seed=2)], "duration": 50}
    metadata = {"icc_profile": profile, "exif": exif}
    made = {
        "jpeg": [("RGB", metadata), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True, "subsampling": 2}),
                 ("RGB", {"quality": 30, "comment": b"a" * 40}), ("RGB", {"restart_marker_blocks": 2})],
        "png": [("RGB", metadata), ("RGBA", {}), ("L", {}), ("LA", {}), ("P", {"transparency": 3}), ("1", {}), ("I;16", {}),
                ("RGB", frames)],
        "webp": [("RGB", metadata), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGBA", {"lossless": True}), ("RGB", frames)],
        "gif": [("P", {}), ("L", {"interlace": 0}), ("P", {"transparency": 2, "comment": b"b"}), ("RGB", frames)],
        "bmp": [("RGB", {}), ("L", {}), ("P", {}), ("1", {}), ("RGBA", {})],
        "tiff": [("RGB", metadata), ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "tiff_adobe_deflate"}),
                 ("RGB", {"compression": "jpeg"}), ("CMYK", {}), ("I;16", {}), ("1", {"compression": "group4"}),
                 ("L", {"compression": "packbits"}), ("RGBA", {"compression": "tiff_deflate"}), ("P", {}), ("RGB", frames),
                 ("RGB", {"big_tiff": True}), ("F", {}), ("LAB", {})],
        "avif": [("RGB", metadata), ("RGBA", {}), ("L", {"quality": 30}), ("RGB", frames | {"speed": 10})],
        "ppm": [("RGB", {}), ("L", {}), ("1", {}), ("I;16", {})],
        "heic": [("RGB", {}), ("RGBA", {})],
    }[kind]  # fmt: skip
    if kind == "heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    return [_saved(mode, "HEIF" if kind == "heic" else kind.upper(), options) for mode, options in made]


def _saved(mode, kind, options):
    out = io.BytesIO()
    drawn_image(mode).save(out, kind, **options)
    return out.getvalue()


def prepare(kind, folder):
    good = seeds(kind)
    preprocessing = Preprocessing(64)
    kept = folder / f"mutant.{kind}"

    def attempt(index):
        rng = rng_of(kind, index)
        grammar = GRAMMAR.get(kind, mutate.mutate_bytes)
        way = grammar if rng.random() < 0.5 else mutate.mutate_bytes
        data = way(rng.choice(good), rng, good)
        kept.write_bytes(data)  # what a crash leaves to look at

        def read():
            pixels = preprocessing.apply(decode(data if index % 2 else kept, "the image"))
            if pixels.shape != (64, 64, 3) or pixels.dtype != np.uint8:
                raise Failed(f"{pixels.shape} {pixels.dtype}")
            return "read"

        is_image(io.BytesIO(data))
        return outcome(read, ImageDecodeError)

    return attempt
