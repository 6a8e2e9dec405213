import copy
import multiprocessing
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat import InputError, ModelError
from ditifeat.encoding import loaded as encoder_module
from ditifeat.encoding.device import choose_device
from tests.conftest import make_image, random_model, tiny_recipe


@pytest.fixture
def own_folder(tiny_folder, tmp_path):
    """A model folder that the test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "own")


def images(count=3, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_method_is_the_function(tiny_encoder, photos):
    assert np.array_equal(tiny_encoder.encode(photos), ditifeat.encode(tiny_encoder, photos))
    assert tiny_encoder.encode(photos / "00.png", output="torch").shape == (32,)


def test_features_say_what_made_them(tiny_encoder, photos, tmp_path):
    features = tiny_encoder.encode(photos)
    assert features.weights == tiny_encoder.weights and len(features.weights) == 64
    # The tiny model's crop is the central square, and so is "center".
    assert features.preprocessing == tiny_encoder.encode(photos, crop="center").preprocessing != ""
    assert features.skipped == ()
    make_image().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    some = tiny_encoder.encode(tmp_path, on_error="skip")
    assert some.names == ("good.png",) and some.skipped == ("bad.png",)


def test_another_crop_is_another_preprocessing(tiny_encoder, photos, tmp_path):
    from ditifeat.data.preprocessing import Preprocessing

    random_model(tiny_recipe(image=Preprocessing(32, crop=(0.1, 0.1, 0.9, 0.9)))).save(tmp_path)
    cropped = ditifeat.load_encoder(tmp_path)
    whole = cropped.encode(photos, crop="center")
    assert whole.preprocessing == tiny_encoder.encode(photos).preprocessing != cropped.encode(photos).preprocessing
    with pytest.raises(InputError, match="another way"):
        whole.nearest(cropped.encode(photos))


def test_a_pickle_holds_no_weights(tiny_encoder):
    tiny_encoder.model  # noqa: B018
    data = pickle.dumps(tiny_encoder)
    assert len(data) < 1000
    for loaded in (pickle.loads(data), copy.deepcopy(tiny_encoder)):
        assert loaded.weights == tiny_encoder.weights and torch.equal(loaded(images()), tiny_encoder(images()))


def test_a_pickle_keeps_the_dtype_and_a_chosen_device(tiny_folder):
    encoder = ditifeat.load_encoder(tiny_folder, device="cpu", dtype="bfloat16")
    loaded = pickle.loads(pickle.dumps(encoder))
    assert loaded.dtype == torch.bfloat16 and loaded.device == torch.device("cpu")


def test_a_relative_folder_is_found_from_elsewhere(own_folder, monkeypatch):
    monkeypatch.chdir(own_folder.parent)
    data = pickle.dumps(ditifeat.load_encoder("own"))
    monkeypatch.chdir("/")
    assert pickle.loads(data).partition.d == 32


def test_a_bundled_model_is_pickled_by_name():
    data = pickle.dumps(ditifeat.load_encoder("celeba64-mini"))
    assert b"celeba64-mini" in data and b"weights/" not in data
    assert pickle.loads(data).config.name == "celeba64-mini"


def test_a_model_of_the_hub_is_pickled_by_its_commit_and_without_the_token(hub):
    options = hub.options
    encoder = ditifeat.load_encoder("org/model", token="secret", cache_dir=options.cache_dir)
    data = pickle.dumps(encoder)
    assert b"secret" not in data and b"org/model" in data and encoder.folder.name.encode() in data
    assert pickle.loads(data).folder == encoder.folder


def test_prefetched_it_edits_without_a_connection(hub, offline, photos):
    encoder = ditifeat.load_encoder("org/model", cache_dir=hub.options.cache_dir)
    hub.asked.clear()
    encoder.prefetch()
    assert {"estimator.safetensors", "attributes.safetensors", "attributes-sparse.safetensors"} <= set(hub.asked)
    hub.asked.clear()
    offline()
    assert encoder.attributes() is None and encoder.attributes(sparse=True) is None
    assert ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=1).size == (32, 32)
    again = ditifeat.load_encoder("org/model", cache_dir=hub.options.cache_dir, local_files_only=True)
    assert again.model.partition.k == 8 and not hub.asked


def test_a_pickle_of_weights_that_changed_is_refused(own_folder):
    data = pickle.dumps(ditifeat.load_encoder(own_folder))
    random_model(tiny_recipe(name="other")).save(own_folder)
    other = random_model(tiny_recipe())
    other.mean += 1
    other.save(own_folder)
    with pytest.raises(ModelError, match="have changed"):
        pickle.loads(data)


def _encode(encoder, path):
    return np.asarray(encoder.encode(path))


@pytest.mark.slow
def test_other_processes_encode_alike(tiny_encoder, photos):
    paths = [photos / f"{i:02d}.png" for i in range(4)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(_encode, [tiny_encoder] * 4, paths))
    assert np.allclose(rows, tiny_encoder.encode(paths), atol=1e-5)


def test_one_network_not_two(tiny_folder):
    encoder = ditifeat.load_encoder(tiny_folder)
    assert encoder.model.encoder is encoder.network and encoder.model is encoder.model


def test_eight_threads_load_the_model_once(tiny_folder, monkeypatch):
    encoder, calls = ditifeat.load_encoder(tiny_folder), []
    load, start = encoder_module.load_model, threading.Barrier(8)
    monkeypatch.setattr(encoder_module, "load_model", lambda *a: calls.append(1) or load(*a))

    def first_use(_):
        start.wait()
        return encoder.model

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(first_use, range(8)))
    assert len(calls) == 1 and len(set(map(id, models))) == 1


def test_eight_threads_encode_as_one(tiny_encoder, photos):
    expected = tiny_encoder.encode(photos).array
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: tiny_encoder.encode(photos).array, range(16)))
    assert all(np.array_equal(row, expected) for row in rows)


def test_a_model_that_was_trained_again_in_place_is_refused(own_folder):
    encoder = ditifeat.load_encoder(own_folder)
    changed = random_model(tiny_recipe())
    changed.mean += 1
    changed.save(own_folder)
    with pytest.raises(ModelError, match="load the encoder again"):
        encoder.model  # noqa: B018
    assert ditifeat.load_encoder(own_folder).model.mean.mean() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16"])
def test_half_precision_gives_float32_codes(tiny_folder, tiny_encoder, photos, dtype):
    by_option = ditifeat.load_encoder(tiny_folder, dtype=dtype)
    by_hand = ditifeat.load_encoder(tiny_folder)
    by_hand.network.to(by_option.dtype)
    expected = tiny_encoder.encode(photos).array
    for encoder in (by_option, by_hand):
        features = encoder.encode(photos)
        assert features.dtype == np.float32 and encoder.dtype != torch.float32
        assert np.abs(features.array - expected).max() < 0.05 * np.abs(expected).max()
        assert encoder.encode(photos, output="torch").dtype == torch.float32


def test_to_moves_in_place(tiny_folder):
    encoder = ditifeat.load_encoder(tiny_folder)
    assert encoder.to(torch.bfloat16) is encoder and encoder.dtype == torch.bfloat16
    assert encoder.to("cpu", torch.float32).dtype == torch.float32
    encoder.model  # noqa: B018
    assert encoder.to("cpu").model.mean.device == encoder.device == torch.device("cpu")


def test_half_an_encoder_still_edits(tiny_folder, photos):
    encoder = ditifeat.load_encoder(tiny_folder, dtype="bfloat16")
    edited = ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=2)
    assert edited.size == (32, 32)


@pytest.mark.parametrize("device", ["gpu!", "meta", "cuda:99", "", 3.5, "mps:7"])
def test_a_device_that_is_not_there_is_refused(tiny_folder, tiny_encoder, device):
    if device == "mps:7" and torch.backends.mps.is_available():
        pytest.skip("MPS takes any index")
    for use in (lambda: ditifeat.load_encoder(tiny_folder, device=device), lambda: tiny_encoder.to(device)):
        with pytest.raises(InputError, match="device"):
            use()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_cuda_is_our_error(tiny_folder):
    with pytest.raises(InputError, match=r"device = 'cuda' cannot be used .*use cpu"):
        ditifeat.load_encoder(tiny_folder, device="cuda")


@pytest.mark.parametrize("cuda,mps,expected", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_device_is_chosen_where_none_is_given(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert choose_device() == torch.device(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, "float64", "nothing", 16, []])
def test_dtypes_that_do_not_fit(tiny_folder, dtype):
    with pytest.raises(InputError, match="dtype"):
        ditifeat.load_encoder(tiny_folder, dtype=dtype)


@pytest.mark.parametrize("wrong", [images(size=16), images()[0], images().numpy(), images()[:, :1], None])
def test_images_that_are_not_preprocessed(tiny_encoder, wrong):
    with pytest.raises(InputError, match=r"\(B, 3, 32, 32\)"):
        tiny_encoder(wrong)


def test_a_revision_of_a_folder_is_refused(tiny_folder):
    for name in (tiny_folder, None, "celeba64-mini"):
        with pytest.raises(InputError, match="revision = 'v1' belongs"):
            ditifeat.load_encoder(name, revision="v1")


def test_no_code_here_needs_float64_on_a_device():
    """MPS has no float64: what needs it leaves the device first."""
    from pathlib import Path

    package = Path(ditifeat.__file__).parent
    for room in ("encoding", "analysis", "editing"):
        for path in (package / room).glob("*.py"):
            for line in path.read_text("utf-8").splitlines():
                assert ".double()" not in line or ".cpu()" in line, f"{path}: {line}"
