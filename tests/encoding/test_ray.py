"""Encoding on a local Ray cluster of two workers."""

import os
import signal

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed; it comes with the extra scale")

from ditifeat import Features, ImageDecodeError, InputError
from ditifeat.analysis.shards import list_shards
from ditifeat.app.cli import main
from ditifeat.encoding import ray as ray_module
from ditifeat.encoding.ray import ImagesToFeatures, ShardWriter, encode_on_ray
from tests.conftest import make_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(60):
        make_image(i).save(folder / f"{i:02d}.png")
    (folder / "07.png").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(ray_module, "SHARD", 4)


def content(path):
    features = Features.load(path)
    return features.names, features.skipped, features.array, features.header


def assert_equal(found, expected):
    assert found[:2] == expected[:2] and found[3] == expected[3]
    assert np.abs(found[2] - expected[2]).max() < 1e-5


def test_two_workers_write_what_one_process_does(cluster, tiny_encoder, images, tmp_path):
    tiny_encoder.encode(images, out=tmp_path / "one.parquet")
    done = encode_on_ray(tiny_encoder, images, tmp_path / "two.parquet")
    assert (done.rows, done.failed, done.before) == (59, 1, 0)
    assert_equal(content(tmp_path / "two.parquet"), content(tmp_path / "one.parquet"))
    assert len(list_shards(tmp_path / "two.parquet")) == 15
    again = encode_on_ray(tiny_encoder, images, tmp_path / "two.parquet")
    assert again.before == 59
    with pytest.raises(InputError, match="averaging over flips"):
        encode_on_ray(tiny_encoder, images, tmp_path / "two.parquet", flip_average=True)


def test_a_killed_worker_changes_nothing(cluster, tiny_encoder, images, tmp_path, monkeypatch):
    """Each worker's process is killed once, after its first shard and before it has answered."""
    marks = tmp_path / "marks"
    marks.mkdir()

    class Killed(ShardWriter):
        def write(self, path, images):
            count = super().write(path, images)
            mark = marks / path.name
            if path.name in ("part-00003.parquet", "part-00008.parquet") and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return count

    monkeypatch.setattr(ray_module, "ShardWriter", Killed)
    done = encode_on_ray(tiny_encoder, images, tmp_path / "two.parquet")
    assert len(list(marks.iterdir())) == 2 and (done.rows, done.failed) == (59, 1)
    tiny_encoder.encode(images, out=tmp_path / "one.parquet")
    assert_equal(content(tmp_path / "two.parquet"), content(tmp_path / "one.parquet"))


def test_shards_that_are_missing_are_made_alone(cluster, tiny_encoder, images, tmp_path):
    path = tmp_path / "x.parquet"
    encode_on_ray(tiny_encoder, images, path)
    expected = content(path)
    state = path / "_encoding.json"
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    gone = [list_shards(path)[i] for i in (2, 9)]
    times = {shard: shard.stat().st_mtime_ns for shard in list_shards(path)}
    for shard in gone:
        shard.unlink()
    done = encode_on_ray(tiny_encoder, images, path)
    assert done.before == 51 + 1 and done.rows == 59  # the damaged image was there before too
    assert {s for s in list_shards(path) if s.stat().st_mtime_ns != times[s]} == set(gone)
    assert_equal(content(path), expected)
    # One process goes on with it too: from the first gap.
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    gone[0].unlink()
    assert tiny_encoder.encode(images, out=path).before == 7
    assert_equal(content(path), expected)


def test_raising_at_a_bad_image(cluster, tiny_encoder, images, tmp_path):
    with pytest.raises(ImageDecodeError, match=r"07\.png"):
        encode_on_ray(tiny_encoder, images, tmp_path / "x.parquet", on_error="raise")


def test_the_command(cluster, tiny_encoder, images, tmp_path, capsys):
    words = ["encode", str(images), "--out", str(tmp_path / "x.parquet"), "--model", str(tiny_encoder.folder), "--ray"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 image could not be decoded"
    assert main([*words[:3], str(tmp_path / "x.npz"), *words[4:]]) == 2
    assert "many machines write Parquet alone" in capsys.readouterr().err


def test_map_batches(cluster, tiny_encoder, images):
    import ray.data

    data = ray.data.from_items([{"image": (images / f"{i:02d}.png").read_bytes(), "label": i} for i in range(10)])
    found = data.map_batches(
        ImagesToFeatures, fn_constructor_kwargs={"model": str(tiny_encoder.folder)}, concurrency=1, batch_size=4
    )
    rows = sorted(found.take_all(), key=lambda row: row["label"])
    assert [bool(row["error"]) for row in rows] == [i == 7 for i in range(10)] and set(rows[0]) == {
        "label",
        "features",
        "error",
    }
    expected = tiny_encoder.encode(images, on_error="skip")
    assert np.abs(np.stack([row["features"] for row in rows if not row["error"]]) - expected.array[:9]).max() < 1e-5
