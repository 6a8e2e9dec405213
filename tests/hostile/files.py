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
    return (type(said) is type(read) and said == read) or (_number(said) and _number(read) and said == read)


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


def some_features(n=12):
    from ditifeat import Features, TimeStepPartition

    array = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
    about = ("a model", "ab" * 32, "0123456789ab", True, ("broken.png",))
    return Features(array, tuple(f"more/{i}.png" for i in range(n)), TimeStepPartition(4, 16), *about)


def features(suffix):
    def kind(folder):
        from ditifeat import Features

        made = some_features()
        path = folder / f"features{suffix}"
        made.save(path)

        def read(data):
            found = Features.load(path)
            if same_features(found, made):
                return "loaded equal"
            array, about = said_of_features(data, suffix)
            plain = found.header | {"names": list(found.names), "skipped": list(found.skipped)}
            if (
                array.dtype not in (np.float32, np.float16)
                or not np.array_equal(found.array, array, equal_nan=True)
                or not agrees(about, plain)
            ):
                raise Failed(f"other features, without a word: {about} read as {plain}")
            return "loaded as it says"

        grammar = mutate.mutate_npz if suffix == ".npz" else mutate.mutate_safetensors
        return File(path), grammar, read

    return kind


def same_features(found, made):
    return np.array_equal(found.array, made.array) and all(
        getattr(found, key) == getattr(made, key) for key in vars(made) if key != "array"
    )


def said_of_features(data, suffix):
    """What a well-formed file that no checksum contradicts says, by another reading; else the mutant should be refused."""
    if suffix == ".npz":
        with np.load(io.BytesIO(data)) as content:
            return content["features"], json.loads(str(content["about"]))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "sha256" in header["__metadata__"]:
        raise Failed("a file that is not what was written was read")
    start, end = header["features"]["data_offsets"]
    array = np.frombuffer(data[8 + length :][start:end], np.float32).reshape(header["features"]["shape"])
    return array, json.loads(header["__metadata__"]["ditifeat"])


def shards(folder):
    import pyarrow.parquet as parquet

    from ditifeat import Features

    made = some_features(n=200)
    path = folder / "features.parquet"
    made.save(path)
    shard = path / "part-00000.parquet"

    def grammar(data, rng, others):
        """Well-formed Parquet of other columns, types, rows or header."""
        table = parquet.read_table(io.BytesIO(data))
        way = rng.randrange(5)
        if way == 0:
            table = table.drop_columns([rng.choice(table.column_names)])
        elif way == 1:
            table = table.set_column(rng.randrange(3), rng.choice(table.column_names), [list(range(len(table)))])
        elif way == 2:
            table = table.slice(rng.randrange(200))
        else:
            header = json.loads(table.schema.metadata[b"ditifeat"])
            header = mutate.mutate_value(header, rng) if way == 3 else rng.choice(([], 3, None, "x", {}))
            table = table.replace_schema_metadata({b"ditifeat": json.dumps(header)})
        out = io.BytesIO()
        parquet.write_table(table, out)
        return out.getvalue()

    def read(data):
        found = Features.load(path)
        if same_features(found, made):
            return "loaded equal"
        table = parquet.read_table(io.BytesIO(data), page_checksum_verification=True)
        header = json.loads(table.schema.metadata[b"ditifeat"])
        fine = [i for i, error in enumerate(table["error"].to_pylist()) if error is None]
        array = np.array(table["features"].to_pylist(), np.float32).reshape(len(table), -1)[fine]
        names = [table["name"][i].as_py() for i in fine]
        plain = found.header
        if (
            not np.array_equal(found.array, array, equal_nan=True)
            or list(found.names) != names
            or not agrees(header, plain)
        ):
            raise Failed(f"other features, without a word: {header} read as {plain}")
        return "loaded as it says"

    return File(shard), grammar, read


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
        if same:
            return "loaded equal"
        length = int.from_bytes(data[:8], "little")
        if "sha256" in json.loads(data[8 : 8 + length]).get("__metadata__", {}):
            raise Failed("another report, without a word")
        return "loaded as it says"

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
        tags = (
            "!!python/object/apply:os.mkdir [ran]",
            "!!python/name:os.system",
            "&a [*a]",
            "*nothing",
            "!!binary aGE=",
            "2020-01-01",
        )
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
    "shards": shards,
    "labels-csv": labels(False),
    "labels-celeba": labels(True),
    "report": report,
    "recipe": recipe,
    "dm-config": other_config("dm/unet/config.json"),
    "dm-scheduler": other_config("dm/scheduler/scheduler_config.json"),
    "dm-weights": weights("dm/unet/diffusion_pytorch_model.safetensors"),
}

# A change of their bytes is found; those who write them anew may say what they like. The others are text.
CHECKED = ("features-npz", "features-safetensors", "shards", "report")


def prepare(kind, folder):
    folder = folder / kind
    folder.mkdir(exist_ok=True)
    file, grammar, read = KINDS[kind](folder)

    def attempt(index):
        rng = rng_of(kind, index)
        way = grammar if rng.random() < 0.6 else mutate.mutate_bytes
        data = way(file.good, rng, [file.good])
        file.path.write_bytes(data)
        found = outcome(lambda: read(data), DitifeatError)
        if found == "loaded as it says" and way is mutate.mutate_bytes and kind in CHECKED:
            raise Failed("bytes changed, and what was read is something else")
        return found

    return attempt
