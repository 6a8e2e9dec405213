"""DMs and VAEs of other people, by folder or by name on the Hub."""

import shutil

import pytest

from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.model.codec import load_vae
from ditifeat.model.config import DMReference
from ditifeat.pretrained.dm import download_dm, resolve_dm, resolve_vae
from tests.fake_hub import COMMIT
from tests.model.test_codec import latent_model, tiny_vae


def test_names_of_dms(tiny_folder, hub):
    folder, reference = resolve_dm(str(tiny_folder / "dm"))
    assert folder == tiny_folder / "dm" and reference == DMReference()
    hub.repos["org/dm"] = tiny_folder / "dm"
    folder, reference = resolve_dm("org/dm@v1", hub.options)
    assert reference == DMReference("org/dm", COMMIT) and (folder / "unet" / "config.json").exists()
    for name in ("nothing", "a/b/c", ""):
        with pytest.raises(MissingFileError, match="neither a diffusers folder nor org/name") as error:
            resolve_dm(name)
        assert isinstance(error.value, FileNotFoundError)
    with pytest.raises(InputError, match="give one of them"):
        resolve_dm("org/dm@v1", type(hub.options)(revision="v2"))


def test_dms_without_safetensors(hub, tmp_path, tiny_folder):
    folder = shutil.copytree(tiny_folder / "dm", tmp_path / "dm")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    hub.repos["org/dm"] = folder
    with pytest.raises(ModelError, match=r"org/dm.*safetensors.*other than safetensors .*are never read"):
        resolve_dm("org/dm", hub.options)
    assert not [file for file in hub.asked if file.endswith(".bin")]


def test_a_repository_without_a_dm(hub):
    (hub.folder() / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"org/model@main/config\.json: the repository has no such file"):
        resolve_dm("org/model", hub.options)


@pytest.mark.parametrize("name", ["vqvae", "vae"])
def test_a_latent_dm_brings_its_vae(hub, tmp_path, name):
    latent_model("VQModel").dm.save(tmp_path / "ldm")
    (tmp_path / "ldm" / "vqvae").rename(tmp_path / "ldm" / name)
    hub.repos["org/ldm"] = tmp_path / "ldm"
    folder, reference = resolve_dm("org/ldm", hub.options, vae=True)
    load_vae(folder / name)
    assert download_dm(reference, hub.options, vae=True) == folder
    shutil.rmtree(tmp_path / "ldm" / name)
    hub.revisions["main"] = "f" * 40
    with pytest.raises(MissingFileError, match="holds no VAE: neither vqvae/ nor vae/"):
        resolve_dm("org/ldm", hub.options, vae=True)


def test_vaes_by_name(hub, tmp_path):
    alone, pipeline = tmp_path / "alone", tmp_path / "pipeline"
    tiny_vae("AutoencoderKL").save_pretrained(alone)
    tiny_vae("AutoencoderKL").save_pretrained(pipeline / "vae")
    hub.repos |= {"org/alone": alone, "org/pipeline": pipeline}
    assert resolve_vae(str(alone)) == alone and resolve_vae(str(pipeline)) == pipeline / "vae"
    for name in (str(alone), str(pipeline), "org/alone", "org/pipeline@v1"):
        assert load_vae(resolve_vae(name, hub.options)).config.latent_channels == 4
    (alone / "config.json").unlink()
    hub.revisions["main"] = "f" * 40
    with pytest.raises(MissingFileError, match=r"holds no VAE: neither vqvae/ nor vae/ nor config\.json"):
        resolve_vae("org/alone", hub.options)
    with pytest.raises(MissingFileError, match="neither a diffusers folder"):
        resolve_vae("nothing")
