"""Damaged model folders, features, labels and recipes: loaded equal to what the file says, or our own error."""

import csv
import io
import json
import shutil
from dataclasses import asdict

import numpy as np

from ditifeat.errors import DitifeatError
from tests.hostile import mutate
from tests.hostile.harness import Failed, outcome, rng_of


def agrees(said, read):
    """Whether a configuration holds what its file says; keys that the file does not say have their defaults."""
    if isinstance(said, dict) and isinstance(read, dict):
        return all(key in read and agrees(value, read[key]) for key, value in said.items())
    if isinstance(said, list) and isinstance(read, list | tuple):
        return len(said) == len(read) and all(map(agrees, said, read))
    if isinstance(said, str) and isinstance(read, int | float):
        return float(said) == read
    return type(said) is type(read) and said == read or (_number(said) and _number(read) and said == read)


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal_tensors(ours, theirs):
    import torch

    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


class Model:
    """A tiny model's folder, one of whose files is replaced by each mutant."""

    def __init__(self, folder, file):
        from tests.conftest import random_model, tiny_recipe

        self.folder = folder / f"model-{file.replace('/', '-')}"
        self.whole = random_model(tiny_recipe())
        shutil.rmtree(self.folder, ignore_errors=True)
        self.whole.save(self.folder)
        self.path = self.folder / file
        self.good = self.path.read_bytes()

    def load(self):
        """Everything that a user could do with it, on one image."""
        import torch

        import ditifeat
        from ditifeat.model.diti import DiTi

        encoder = ditifeat.load_encoder(self.folder, device="cpu")
        features = encoder.encode(np.zeros((40, 40, 3), np.uint8))
        if not np.isfinite(features.array).all():
            raise Failed("codes that are not finite")
        model = DiTi.load(self.folder)
        t = torch.tensor([0, model.partition.num_time_steps - 1])
        noise = torch.zeros(2, *model.noise_shape)
        shift = model.shift(noise, t, torch.zeros(2, model.config.latent_dim))
        if not torch.isfinite(shift).all():
            raise Failed("a shift that is not finite")
        return model


def config(folder):
    model = Model(folder, "config.json")

    def read(data):
        found = model.load().config
        said = json.loads(data)
        plain = json.loads(json.dumps(asdict(found)))
        if not agrees(said, plain):
            raise Failed(f"{said} read as {plain}")
        return "loaded as it says"

    return model, mutate.mutate_json, read


def other_config(file):
    def kind(folder):
        model = Model(folder, file)

        def read(data):
            model.load()
            return "loaded as it says"

        return model, mutate.mutate_json, read

    return kind


def weights(file):
    def kind(folder):
        model = Model(folder, file)
        expected = model.whole.state_dict()

        def read(data):
            if not equal_tensors(model.load().state_dict(), expected):
                raise Failed("other weights, without a word")
            return "loaded equal"

        return model, mutate.mutate_safetensors, read

    return kind


class File:
    """A file by itself."""

    def __init__(self, path, good=None):
        self.path = path
        self.good = path.read_bytes() if good is None else good


def features(suffix):
    def kind(folder):
        from ditifeat import Features, TimeStepPartition

        array = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
        names = tuple(f"more/{i}.png" for i in range(12))
        about = ("a model", "ab" * 32, "0123456789ab", True, ("broken.png",))
        made = Features(array, names, TimeStepPartition(4, 16), *about)
        path = folder / f"features{suffix}"
        made.save(path)

        def read(data):
            found = Features.load(path)
            same = np.array_equal(found.array, made.array) and found.array.dtype == made.array.dtype
            if not same or any(getattr(found, k) != getattr(made, k) for k in vars(made) if k != "array"):
                raise Failed(f"other features, without a word: {found!r} {found.names[:2]}")
            return "loaded equal"

        grammar = mutate.mutate_npz if suffix == ".npz" else mutate.mutate_safetensors
        return File(path), grammar, read

    return kind


def report(folder):
    from ditifeat.analysis.report import AttributeProbe, ProbeReport

    rng = np.random.default_rng(0)
    probes = {}
    for name in ("Smiling", "Male"):
        arrays = {key: rng.standard_normal(16).astype(np.float32) for key in ("weights", "mean", "std")}
        scores = {"ap": 0.5, "auroc": 0.75, "prevalence": 0.25}
        probes[name] = AttributeProbe(name=name, kind="binary", scores=scores, bias=0.5, alone=(0.5,), cumulative=(0.5,),
                                      missing=0, **arrays)  # fmt: skip
    made = ProbeReport(probes, ((0, 1000),), {"weights": "ab" * 32})
    path = folder / "report.safetensors"
    made.save(path)
    expected = str(made)

    def read(data):
        found = ProbeReport.load(path)
        same = str(found) == expected and all(
            np.array_equal(getattr(found[n], k), getattr(made[n], k)) for n in made for k in ("weights", "mean", "std")
        )
        if not same:
            raise Failed("another report, without a word")
        return "loaded equal"

    return File(path), mutate.mutate_safetensors, read


NAMES = [f"{i:02d}.png" for i in range(12)]


def labels(celeba):
    def kind(folder):
        from ditifeat.data.labels import read_labels

        rng = np.random.default_rng(0)
        rows = [[name, *rng.choice(("1", "-1", "0"), 3)] for name in NAMES]
        header = ["Smiling", "Male", "Young"]
        if celeba:
            text = "\n".join(["12", " ".join(header), *(" ".join(row) for row in rows)]) + "\n"
        else:
            text = "\n".join(",".join(row) for row in [["name", *header], *rows]) + "\n"
        path = folder / ("labels.txt" if celeba else "labels.csv")
        path.write_text(text)

        def read(data):
            found = read_labels(path, NAMES)
            plain = naively(data, celeba)
            for attribute, values in found.items():
                for name, value in zip(NAMES, values, strict=True):
                    said = plain.get((name, attribute))
                    if said is not None and not (said == value or (np.isnan(said) and np.isnan(value))):
                        raise Failed(f"{name} {attribute}: {said} read as {value}")
            return "loaded as it says"

        return File(path), mutate.mutate_table, read

    return kind


def naively(data, celeba):
    """{(name, attribute): number} of what a plain reader finds; what it does not understand is left out."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return {}
    if celeba:
        lines = [line.split() for line in text.splitlines() if line.strip()][1:]
        header, rows = ["name", *lines[0]], lines[1:]
    else:
        first = text.splitlines()[0]
        delimiter = max((",", ";", "\t"), key=first.count)
        header, *rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    found = {}
    for row in rows:
        for attribute, cell in zip(header[1:], row[1:], strict=False):
            try:
                value = float(cell)
            except ValueError:
                continue
            found[row[0].strip(), attribute.strip()] = value
    return found


def recipe(folder):
    import yaml

    from ditifeat.train.recipe import load_recipe, recipe_to_dict
    from tests.conftest import tiny_recipe

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(tiny_recipe())))

    def grammar(data, rng, others):
        tags = ("!!python/object/apply:os.mkdir [ran]", "!!python/name:os.system", "&a [*a]", "*nothing", "!!binary aGE=", "2020-01-01")
        if rng.random() < 0.3:
            lines = data.decode().split("\n")
            place = rng.randrange(len(lines))
            lines[place] = lines[place].split(":")[0] + ": " + rng.choice(tags)
            return "\n".join(lines).encode()
        return json.dumps(mutate.mutate_value(yaml.safe_load(data), rng)).encode()

    def read(data):
        found = recipe_to_dict(load_recipe(path))
        said = yaml.safe_load(data)
        if not agrees({k: v for k, v in _plain(said).items() if k not in ("diti", "encoder")}, found):
            raise Failed(f"{said} read as {found}")
        return "loaded as it says"

    return File(path), grammar, read


def _plain(said):
    """Without sections that are null, which are as if not said."""
    return {key: value for key, value in said.items() if value is not None}


KINDS = {
    "config": config,
    "model": weights("model.safetensors"),
    "estimator": weights("estimator.safetensors"),
    "features-npz": features(".npz"),
    "features-safetensors": features(".safetensors"),
    "labels-csv": labels(False),
    "labels-celeba": labels(True),
    "report": report,
    "recipe": recipe,
    "dm-config": other_config("dm/unet/config.json"),
    "dm-scheduler": other_config("dm/scheduler/scheduler_config.json"),
    "dm-weights": weights("dm/unet/diffusion_pytorch_model.safetensors"),
}


def prepare(kind, folder):
    folder = folder / kind
    folder.mkdir(exist_ok=True)
    file, grammar, read = KINDS[kind](folder)

    def attempt(index):
        rng = rng_of(kind, index)
        way = grammar if rng.random() < 0.6 else mutate.mutate_bytes
        data = way(file.good, rng, [file.good])
        file.path.write_bytes(data)
        return outcome(lambda: read(data), DitifeatError)

    return attempt
