import pickle
import tracemalloc

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat import Features, ImageDecodeError, InputError, ModelError, TimeStepPartition
from ditifeat.encoding.encode import stream
from tests.conftest import make_picture


@pytest.fixture
def features(tiny_encoder, photos):
    return ditifeat.encode(tiny_encoder, photos)


def test_a_folder_gives_a_row_a_picture(features, tiny_encoder, photos):
    assert features.shape == (10, 32) and features.dtype == np.float32 and len(features) == 10
    assert features.names[0] == "00.png" and features.names[-1] == "more/09.png"
    one = ditifeat.encode(tiny_encoder, photos / "more" / "09.png")
    assert one.shape == (32,)
    assert np.allclose(one, features.array[-1], atol=1e-4)


def test_one_picture_is_one_dimensional_and_a_list_is_not(tiny_encoder):
    picture = make_picture()
    for single in (picture, np.asarray(picture), torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)):
        assert ditifeat.encode(tiny_encoder, single).shape == (32,)
    assert ditifeat.encode(tiny_encoder, [picture]).shape == (1, 32)
    assert ditifeat.encode(tiny_encoder, np.asarray(picture)[None]).shape == (1, 32)


def test_no_picture_gives_no_row(tiny_encoder, tmp_path):
    for nothing in ([], iter(()), np.zeros((0, 32, 32, 3), np.uint8), tmp_path):
        features = ditifeat.encode(tiny_encoder, nothing)
        assert features.shape == (0, 32) and features.names == ()


def test_rows_do_not_depend_on_the_batch_size(tiny_encoder, photos):
    rows = [np.asarray(ditifeat.encode(tiny_encoder, photos, batch_size=size)) for size in (1, 3, 64)]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5 and np.abs(rows[0] - rows[2]).max() < 1e-5


def test_rows_are_what_the_network_says(tiny_encoder):
    picture = make_picture(width=32, height=32)
    x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert np.allclose(ditifeat.encode(tiny_encoder, picture), tiny_encoder(x.contiguous())[0], atol=1e-4)


def test_torch_output(tiny_encoder, photos):
    codes = ditifeat.encode(tiny_encoder, photos, output="torch")
    assert isinstance(codes, torch.Tensor) and codes.shape == (10, 32) and codes.dtype == torch.float32


def test_nothing_global_changes(tiny_encoder, photos):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    ditifeat.encode(tiny_encoder, photos)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not tiny_encoder.network.training


def test_a_bar_for_several_batches_alone(tiny_encoder, photos, capsys):
    ditifeat.encode(tiny_encoder, photos, progress=True)
    ditifeat.encode(tiny_encoder, photos, batch_size=4)
    assert capsys.readouterr().err == ""
    ditifeat.encode(tiny_encoder, photos, batch_size=4, progress=True)
    assert "10picture" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"crop": "left"}, {"on_error": "ignore"}, {"output": "jax"}])
def test_wrong_arguments_are_refused(tiny_encoder, arguments):
    with pytest.raises(InputError):
        ditifeat.encode(tiny_encoder, [make_picture()], **arguments)


def test_an_unknown_device_is_refused(tiny_folder):
    with pytest.raises(InputError, match="torch device"):
        ditifeat.load_encoder(tiny_folder, device="gpu!")


def test_a_bad_picture_is_named(tiny_encoder, tmp_path):
    make_picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(ImageDecodeError, match=r"bad\.png"):
        ditifeat.encode(tiny_encoder, tmp_path)


def test_an_iterator_is_read_as_it_goes(tiny_encoder):
    first = next(stream(tiny_encoder, (make_picture(i) for i in range(10**9)), batch_size=2))
    assert first[0] == ["0", "1"] and first[1].shape == (2, 32)


def test_results_are_held_once(tiny_encoder, monkeypatch):
    """Peak memory stays near the result's size, where a list of batches would need it twice."""
    rows = torch.zeros(500, 32)
    monkeypatch.setattr("ditifeat.encoding.encode.stream", lambda *_, **__: ((["x"] * 500, rows) for _ in range(400)))
    tracemalloc.start()
    features = ditifeat.encode(tiny_encoder, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.shape == (200_000, 32)
    names = 200_000 * 8 * 3
    assert peak < 1.5 * features.array.nbytes + names


def test_time_steps_and_subsets(features):
    p = features.partition
    assert np.array_equal(features.time_steps(0, 1000), features.array)
    assert np.array_equal(features.time_steps(250, 500), features.array[:, p.dims_of_subsets(2, 4)])
    assert np.array_equal(features.subsets(2, 4), features.array[:, 8:16])
    assert features.time_steps(250, 500).base is not None  # a view, not a copy


def test_indexing(features):
    assert features[2:4].names == features.names[2:4]
    assert features[[0, 9]].names == ("00.png", "more/09.png")
    assert features[np.arange(10) > 7].shape == (2, 32)
    assert features[0].shape == (32,) and features[0, 1] == features.array[0, 1]


def test_it_is_an_array_to_others(features):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    assert np.asarray(features) is features.array
    assert np.asarray(features, dtype=np.float64).dtype == np.float64
    labels = np.arange(10) % 2
    assert len(cross_val_score(LogisticRegression(), features, labels, cv=2)) == 2


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saved_and_loaded_is_the_same(features, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    features.save(path)
    loaded = Features.load(path)
    assert np.array_equal(loaded.array, features.array)
    assert (loaded.names, loaded.partition, loaded.model) == (features.names, features.partition, "tiny")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_one_row_is_saved_too(features, tmp_path):
    one = Features(features.array[0], features.names[:1], features.partition)
    one.save(tmp_path / "x.npz")
    assert Features.load(tmp_path / "x.npz").shape == (32,)


def test_files_that_are_no_features(features, tmp_path):
    with pytest.raises(InputError, match="npz or"):
        features.save(tmp_path / "x.csv")
    for name in ("none.npz", "none.safetensors"):
        with pytest.raises((InputError, ModelError), match="no such file"):
            Features.load(tmp_path / name)
    (tmp_path / "x.npz").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"x\.npz"):
        Features.load(tmp_path / "x.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match=r"other\.npz"):
        Features.load(tmp_path / "other.npz")


def test_a_pickle_in_a_feature_file_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    array = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "x.npz", features=array, about=array)
    with pytest.raises(InputError):
        Features.load(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_leaves_the_old_file(features, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    features.save(path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        features.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_pandas(features):
    frame = features.to_pandas()
    assert frame.shape == (10, 32) and frame.index[0] == "00.png"
    assert frame.columns[0] == "s00_d000" and frame.columns[-1] == "s07_d031"


def test_shapes_must_agree():
    with pytest.raises(InputError, match="names"):
        Features(np.zeros((2, 8), np.float32), ("a",), TimeStepPartition(2, 8))


def test_features_pickle(features):
    assert np.array_equal(pickle.loads(pickle.dumps(features)).array, features.array)
