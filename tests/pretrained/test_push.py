"""What is uploaded to the Hub, and what is not."""

import shutil

import pytest
import torch

import ditifeat
from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.model.config import read_config
from ditifeat.pretrained.models import load_model
from ditifeat.pretrained.names import resolve
from ditifeat.pretrained.push import push, uploaded_files
from tests.fake_hub import COMMIT, TOKEN

MODEL = {
    "config.json", "model.safetensors", "estimator.safetensors", "dm/model_index.json", "dm/unet/config.json",
    "dm/unet/diffusion_pytorch_model.safetensors", "dm/scheduler/scheduler_config.json",
}  # fmt: skip

CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def pushed(hub, repo="me/model"):
    folder = hub.folder(repo)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_was_pushed_is_loaded_equal(folder, hub):
    (folder / "README.md").write_text(CARD)
    assert push(folder, "me/model", token=TOKEN) == f"{hub.address}/me/model/commit/{COMMIT}"
    assert pushed(hub) == MODEL | {"README.md"}
    own, encoder = ditifeat.load_encoder(folder), ditifeat.load_encoder("me/model", cache_dir=hub.options.cache_dir)
    assert encoder.weights == own.weights
    source = resolve("me/model", hub.options)
    loaded = load_model(read_config(source[0]), *source)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in own.model.state_dict().items())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(ditifeat.encode(encoder, images, output="torch"), ditifeat.encode(own, images, output="torch"))


def test_one_commit(folder, hub):
    """Of several, the first could be taken for a whole model."""
    push(folder, "me/model", token=TOKEN)
    (commit,) = hub.commits
    assert {path for _, path in commit} - {None} == MODEL
    assert {path for kind, path in commit if kind == "lfsFile"} == {name for name in MODEL if "safetensors" in name}


def test_again_and_private(folder, hub):
    push(folder, "me/model", private=True, token=TOKEN)
    (folder / "evaluation.json").write_text("{}")
    push(folder, "me/model", token=TOKEN)
    assert "evaluation.json" in pushed(hub)
    with pytest.raises(ModelError, match="it is private"):
        resolve("me/model", hub.options)


def test_what_lies_beside(folder, hub):
    beside = {"README.md", "evaluation.json", "samples.png", "attributes.safetensors", "a[b].png"}
    for name in (*beside, ".lock", ".x.json", "notes.txt", "token"):
        (folder / name).write_text(CARD if name == "README.md" else "x")
    (folder / "run").mkdir()
    (folder / "run" / "checkpoint.safetensors").write_text("x")
    push(folder, "me/model", token=TOKEN)
    assert pushed(hub) == MODEL | beside == set(uploaded_files(folder, read_config(folder)))


@pytest.mark.parametrize("file", sorted(MODEL - {"dm/model_index.json"}))
def test_what_does_not_load_is_not_uploaded(folder, hub, file):
    (folder / file).unlink()
    with pytest.raises(MissingFileError, match=file.split("/")[-1]):
        push(folder, "me/model", token=TOKEN)
    assert not hub.commits and "me/model" not in hub.repos


@pytest.mark.parametrize("repo", ["model", "a/b/c", "", "me/model@v1", "me/mo del"])
def test_names_that_are_refused_before_anything_is_read(tmp_path, hub, repo):
    with pytest.raises(InputError, match="is not org/name"):
        push(tmp_path / "none", repo, token=TOKEN)
    assert not hub.asked


@pytest.mark.parametrize("token", [None, "expired"])
def test_a_token_that_may_not(folder, hub, token):
    with pytest.raises(ModelError, match=r"me/model: could not be uploaded .*log in with a token that may write"):
        push(folder, "me/model", token=token)
    assert not hub.commits


def test_a_card_that_the_hub_refuses(folder, hub):
    (folder / "README.md").write_text("---\nlicense: other\n---\n# A model\n")
    with pytest.raises(ModelError, match="license_name"):
        push(folder, "me/model", token=TOKEN)
    assert not hub.commits
