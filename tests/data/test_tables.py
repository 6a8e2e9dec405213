"""Columns of images: of Parquet files, and of data sets of the library `datasets`."""

import io
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from ditifeat import ImageDecodeError, InputError
from ditifeat.data.sources import is_single, sources
from ditifeat.errors import MissingDependencyError
from tests.conftest import make_image
from tests.data.test_folders import names_of, png, rows_of

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

IMAGES = [make_image(i, 16, 16) for i in range(4)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, **columns):
    pq.write_table(pa.table(columns), path, write_batch_size=16)  # rows per page: by default 1024, whatever their size
    return str(path)


def structs(count=4, paths=True):
    return pa.array([{"bytes": png(i), "path": f"{i}.png" if paths else None} for i in range(count)], STRUCT)


def pixels(images):
    return [np.asarray(image) for image in images]


def same(found, images=IMAGES):
    return np.array_equal(list(rows_of(found).values()), pixels(images))


def test_kinds_of_columns(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    paths = [f"{i}.png" for i in range(4)]
    data = [png(i) for i in range(4)]
    kinds = {
        "struct": structs(),
        "unnamed": structs(paths=False),
        "bytes": pa.array(data),
        "large bytes": pa.array(data, pa.large_binary()),
        "path": pa.array(paths),
        "dictionary": pa.array(paths).dictionary_encode(),
        "path in struct": pa.array([{"bytes": None, "path": path} for path in paths], STRUCT),
    }
    for kind, column in kinds.items():
        path = write(tmp_path / "x.parquet", label=[1, 2, 3, 4], text=["a", "b", "c", "d"], image=column)
        named = paths if kind in ("struct", "path", "dictionary", "path in struct") else ["0", "1", "2", "3"]
        assert names_of(path) == names_of(f"{path}#image") == named, kind
        assert same(path) and not is_single(path), kind
    assert names_of([write(tmp_path / "x.parquet", image=structs())])[0] == f"{tmp_path}/x.parquet/0.png"


def test_the_embedded_column_is_the_images_and_a_name_beside_it_is_none(tmp_path):
    assert same(write(tmp_path / "x.parquet", file_name=["1.png"] * 4, image=structs(), vector=[b"\1\2"] * 4))


def test_several_columns_are_refused_with_their_names(tmp_path):
    path = write(tmp_path / "x.parquet", image=structs(), mask=structs(), label=[1] * 4)
    with pytest.raises(InputError, match=r"has 2 columns of images; say which: .*x\.parquet#image, .*x\.parquet#mask"):
        names_of(path)
    assert same(f"{path}#mask")
    with pytest.raises(InputError, match=r"has no column 'picture'; it has image, mask, label"):
        names_of(f"{path}#picture")
    with pytest.raises(InputError, match=r"x\.parquet#label: holds int64, and no images"):
        names_of(f"{path}#label")


def test_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([[png(0)], [png(1)]], names=["image", "image"]), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="several columns named 'image'"):
        names_of(tmp_path / "x.parquet")


def test_no_column_of_images_is_refused_with_a_hint(tmp_path):
    path = write(tmp_path / "x.parquet", id=["a", "b"], label=[1, 2])
    with pytest.raises(InputError, match=r"no column of images among id, label; if it is 'id', say so: .*#id"):
        names_of(path)
    (tmp_path / "a").write_bytes(png(0))
    (tmp_path / "b").write_bytes(png(1))
    assert same(f"{path}#id", IMAGES[:2])
    with pytest.raises(InputError, match=r"no column of images among label$"):
        names_of(write(tmp_path / "y.parquet", label=[1]))


def test_cells_that_hold_no_image(tmp_path):
    cells = [None, {"bytes": None, "path": None}, {"bytes": b"", "path": "1.png"}, {"bytes": png(), "path": None}]
    found = list(sources(write(tmp_path / "x.parquet", image=pa.array(cells, STRUCT))))
    assert [name for name, _ in found] == ["0", "1", "1.png", "3"]
    for (_, read), reason in zip(
        found, ("x.parquet, row 0: is empty", "row 1: is empty", "1.png: is not"), strict=False
    ):
        with pytest.raises(ImageDecodeError, match=reason):
            read()
    assert found[3][1]().size == (16, 16)
    with pytest.raises(InputError, match=r"row 0: https://host/1\.png: is a URL"):
        names_of(write(tmp_path / "x.parquet", image=["https://host/1.png"]))


def test_an_empty_table_has_no_images(tmp_path):
    assert names_of(write(tmp_path / "x.parquet", image=structs(0))) == []
    assert names_of(write(tmp_path / "x.parquet", image=pa.array([], pa.binary()))) == []


def test_folders_of_parquet(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "b.parquet", image=structs(paths=False), mask=structs())
    write(tmp_path / "a.parquet", image=structs(2, paths=False), mask=structs(2))
    write(tmp_path / "more" / "c.parquet", image=structs(1, paths=False), mask=structs(1))
    (tmp_path / "_SUCCESS").write_bytes(b"")
    assert names_of(f"{tmp_path}#image") == [str(i) for i in range(7)]
    assert names_of(f"{tmp_path}#mask")[:3] == ["0.png", "1.png", "0.png#2"]
    with pytest.raises(InputError, match=r"a\.parquet: has 2 columns"):
        names_of(tmp_path)
    (tmp_path / "1.png").write_bytes(png())  # a folder of images, with a table beside them
    assert names_of(tmp_path) == ["1.png"]


def test_damaged_tables_are_refused(tmp_path):
    path = write(tmp_path / "x.parquet", image=structs())
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    for damaged in (b"", b"no table", data[:-9], data[9:]):
        (tmp_path / "x.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.parquet: (cannot be read as Parquet|is damaged)"):
            names_of(path)
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        names_of(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        names_of([f"{tmp_path}/none.parquet#image"])


def test_rows_are_read_one_by_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 40_000), np.uint8)
    path = write(tmp_path / "x.parquet", image=[png(0) + row.tobytes() for row in noise])
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    held = []
    for number, _ in enumerate(sources(path)):
        if number in (40, 390):
            held.append(pa.total_allocated_bytes() - before)
    assert number == 399 and max(held) < 8e6
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", image=structs())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[parquet\]'"):
        names_of(path)


def test_a_column_that_pandas_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(write(tmp_path / "x.parquet", image=structs()))
    assert names_of(frame["image"]) == [f"{i}.png" for i in range(4)] and same(frame["image"])
    assert same([{"bytes": png(i), "path": None} for i in range(4)])
    with pytest.raises(InputError, match="dict is not an image"):
        names_of([{"image": png(0), "path": "1.png"}])


# ---- datasets


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture
def data(datasets):
    features = datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
    return datasets.Dataset.from_dict({"label": range(4), "image": IMAGES}, features=features)


def test_data_sets_and_their_columns(data):
    kinds = {
        "data set": data,
        "column": data["image"],
        "iterable": data.to_iterable_dataset(),
        "column of an iterable": data.to_iterable_dataset()["image"],
        "numpy": data.with_format("numpy"),
        "torch": data.with_format("torch"),
        "rows": data.select([2, 0, 1]),
        "transformed": data.with_transform(
            lambda rows: {"x": [im.convert("L").convert("RGB") for im in rows["image"]]}
        ),
        "slice": data[:]["image"],
    }
    grey = [image.convert("L").convert("RGB") for image in IMAGES]
    images = {"rows": [IMAGES[2], IMAGES[0], IMAGES[1]], "transformed": grey}
    for kind, value in kinds.items():
        assert not is_single(value), kind
        assert names_of(value) == [str(i) for i in range(len(images.get(kind, IMAGES)))], kind
        assert same(value, images.get(kind, IMAGES)), kind


def test_images_are_decoded_when_they_are_read(data, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded while it was listed"))
    assert len(list(sources(data))) == 4


def test_paths_in_data_sets(datasets, tmp_path):
    paths = []
    for i, image in enumerate(IMAGES):
        image.save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    as_text = datasets.Dataset.from_dict({"file": paths, "label": ["a"] * 4})
    as_images = as_text.cast_column("file", datasets.Image())
    for value in (as_text, as_images, as_text["file"], as_images["file"]):
        assert names_of(value) == paths and same(value)


def test_generators(datasets):
    def rows():
        for i, image in enumerate(IMAGES):
            yield {"image": image, "label": i}

    assert same(datasets.IterableDataset.from_generator(rows))
    assert names_of(datasets.IterableDataset.from_generator(lambda: iter(()))) == []


def test_which_column_must_be_said(datasets, data):
    both = data.add_column("mask", data.cast_column("image", datasets.Image(decode=False))["image"][:])
    both = both.cast_column("mask", datasets.Image())
    with pytest.raises(InputError, match=r"has 2 columns of images; say which: dataset\['image'\], dataset\['mask'\]"):
        names_of(both)
    assert same(both["mask"])
    with pytest.raises(InputError, match="no column of images among label"):
        names_of(data.remove_columns("image"))
    with pytest.raises(InputError, match=r"holds several data sets \(train, test\); pass one of them"):
        names_of(datasets.DatasetDict(train=data, test=data))


def test_orientation_and_profiles_hold_in_tables(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    make_image(0, 40, 20).save(file, "JPEG", exif=exif)
    ((_, read),) = sources(write(tmp_path / "x.parquet", image=[file.getvalue()]))
    assert read().size == (20, 40)
