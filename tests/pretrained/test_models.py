"""Whole models: exactly the files that each kind needs, fetched at the first use or before."""

import json
import logging
import shutil
from dataclasses import replace

import pytest

import ditifeat
from ditifeat import ModelError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.model.config import ModelConfig, read_config
from ditifeat.model.diffae import DiffAE
from ditifeat.model.diti import DiTi
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import EncoderSpec, build_encoder
from ditifeat.model.partition import TimeStepPartition
from ditifeat.pretrained.models import find_file, load_model, prefetch
from ditifeat.pretrained.names import resolve
from tests.fake_hub import COMMIT
from tests.model.test_codec import latent_model

DM = {"dm/unet/config.json", "dm/unet/diffusion_pytorch_model.safetensors", "dm/scheduler/scheduler_config.json"}

VAE = {"config.json", "diffusion_pytorch_model.safetensors"}


def load(name, options):
    folder, source = resolve(name, options)
    return load_model(read_config(folder), folder, source, options)


def test_a_model_is_its_estimator_and_its_dm(hub):
    folder, source = resolve("org/model", hub.options)
    hub.asked.clear()
    assert isinstance(load_model(read_config(folder), folder, source), DiTi)
    assert set(hub.asked) == {"estimator.safetensors", *DM}


def test_prefetched_once_and_offline_ever_after(hub, offline):
    folder, source = resolve("org/model", hub.options)
    prefetch(read_config(folder), folder, source)
    hub.asked.clear()
    offline()
    assert isinstance(load("org/model", hub.options), DiTi)
    assert isinstance(load("org/model", replace(hub.options, local_files_only=True)), DiTi)
    assert not hub.asked


def test_what_was_not_prefetched_is_said(hub, offline):
    resolve("org/model", hub.options)
    offline()
    with pytest.raises(ModelError, match=r"estimator\.safetensors: is not in the cache.*connect once"):
        load("org/model", hub.options)


def test_files_that_a_model_may_lack(hub, offline, tiny_folder, caplog):
    folder, source = resolve("org/model", hub.options)
    for place in ((folder, source), (tiny_folder, None)):
        assert find_file(*place, "attributes.safetensors") is None
        assert find_file(*place, "config.json").exists()
    offline()
    with caplog.at_level(logging.WARNING):
        assert find_file(folder, source, "attributes.safetensors") is None and not caplog.text
        assert find_file(folder, source, "attributes-sparse.safetensors") is None and "not in the cache" in caplog.text


def test_an_encoder_alone_makes_no_images(tmp_path):
    config = ModelConfig(
        "alone", Preprocessing(16), EncoderSpec((32,)), 8, TimeStepPartition(1, 8), method="contrastive"
    )
    EncoderOnly(config, build_encoder(config.encoder, 16, 8)).save(tmp_path)
    assert prefetch(config, tmp_path, None) == tmp_path / "dm"
    with pytest.raises(ModelError, match="alone: is an encoder alone"):
        load_model(config, tmp_path, None)


@pytest.mark.parametrize("place,folder", [("model", "vae"), ("dm", "dm/vqvae")])
def test_a_model_over_latents_comes_with_its_vae(hub, tmp_path, place, folder):
    latent_model("VQModel", place).save(tmp_path / "latent")
    hub.repos["org/latent"] = tmp_path / "latent"
    assert load("org/latent", hub.options).config.codec.vae == place
    needed = {"config.json", "model.safetensors", "estimator.safetensors", *DM, *(f"{folder}/{file}" for file in VAE)}
    assert set(hub.asked) == needed


@pytest.mark.parametrize("place,folder", [("model", "vae"), ("dm", "dm/vqvae")])
def test_diffae_over_latents_comes_with_its_vae(hub, tmp_path, place, folder):
    latent_model("AutoencoderKL", place, "diffae").save(tmp_path / "latent")
    hub.repos["org/latent"] = tmp_path / "latent"
    assert isinstance(load("org/latent", hub.options), DiffAE)
    assert {f for f in hub.asked if "/" in f} == {
        "dm/unet/config.json", "dm/scheduler/scheduler_config.json", *(f"{folder}/{file}" for file in VAE),
    }  # fmt: skip


def refer(folder, repo):
    """Has a model folder refer to a DM on the Hub in place of its own."""
    shutil.rmtree(folder / "dm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dm": {"repo": repo, "commit": COMMIT}}))
    return folder


def test_a_dm_of_somebody_else_at_its_commit(hub, tmp_path, offline):
    """A local model refers to org/dm, whose files lie flat, and holds no DM itself."""
    own = shutil.copytree(hub.folder(), tmp_path / "own")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in DM:
        shutil.copy(own / file, flat)
    shutil.copy(own / "dm" / "unet" / "config.json", flat)
    hub.repos["org/dm"] = flat
    refer(own, "org/dm")
    assert ditifeat.load_encoder(own).partition.d == 32 and not hub.asked
    assert isinstance(load(own, hub.options), DiTi)
    assert set(hub.asked) == {
        "unet/config.json", "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json",
    }  # fmt: skip
    offline()
    hub.asked.clear()
    assert isinstance(load(own, hub.options), DiTi) and not hub.asked


def test_a_latent_dm_of_somebody_else(hub, tmp_path):
    """As CompVis/ldm-celebahq-256: `unet`, `scheduler` and `vqvae`; the model holds neither DM nor VAE."""
    model = latent_model("VQModel", "dm")
    model.save(tmp_path / "own")
    hub.repos["org/ldm"] = tmp_path / "ldm"
    model.dm.save(tmp_path / "ldm")
    refer(tmp_path / "own", "org/ldm")
    loaded = load(tmp_path / "own", hub.options)
    assert loaded.config.dm.repo == "org/ldm" and loaded.noise_shape == model.noise_shape
    assert set(hub.asked) == {*(f.removeprefix("dm/") for f in DM), *(f"vqvae/{file}" for file in VAE)}
    loaded.save(tmp_path / "again")
    assert not (tmp_path / "again" / "dm").exists() and not (tmp_path / "again" / "vae").exists()


@pytest.mark.slow
def test_a_program_encodes_online_and_edits_offline(hub, photos):
    """By the public functions, in processes of their own, as people run them."""
    program = "e = ditifeat.load_encoder('org/model'); "
    out, error = hub.run(program + f"print(ditifeat.encode(e, {str(photos)!r}).shape, e.attributes())")
    assert out == "(10, 32) None", error
    assert set(hub.asked) == {"config.json", "model.safetensors", "attributes.safetensors"}
    assert hub.run(program + "e.model")[0] == "" and set(hub.asked) >= {"estimator.safetensors", *DM}
    edit = f"print(ditifeat.edit(e, {str(photos / '00.png')!r}, reference={str(photos / '01.png')!r}, steps=2).size)"
    out, error = hub.run(program + edit + "; print(e.attributes())", HF_HUB_OFFLINE="1")
    assert out.splitlines() == ["(32, 32)", "None"], error
    assert not hub.asked and "not in the cache" not in error
