"""What is uploaded to the Hub, and what is not."""

import shutil
from types import SimpleNamespace

import pytest

from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.model.config import read_config
from ditifeat.pretrained.push import push, uploaded_files

MODEL = {
    "config.json", "model.safetensors", "estimator.safetensors", "dm/model_index.json", "dm/unet/config.json",
    "dm/unet/diffusion_pytorch_model.safetensors", "dm/scheduler/scheduler_config.json",
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo, **kw: made.append((repo, kw)))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda self, **kw: made.append(kw) or SimpleNamespace(commit_url="https://commit"),
    )
    return made


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_a_whole_model_and_what_lies_beside(folder, calls):
    beside = {"README.md", "evaluation.json", "samples.png", "attributes.safetensors"}
    for name in (*beside, ".lock", ".x.json", "notes.txt", "token"):
        (folder / name).write_text("")
    (folder / "run").mkdir()
    (folder / "run" / "checkpoint.safetensors").write_text("")
    assert push(folder, "me/model", private=True) == "https://commit"
    (repo, made), upload = calls
    assert repo == upload["repo_id"] == "me/model" and made["private"] and upload["folder_path"] == folder
    assert set(upload["allow_patterns"]) == MODEL | beside


def test_what_matches_no_other_file(folder, calls):
    from huggingface_hub.utils import filter_repo_objects

    (folder / "a[b].png").write_text("")
    push(folder, "me/model")
    there = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()] + ["run/config.json", "ab.png"]
    kept = filter_repo_objects(there, allow_patterns=calls[1]["allow_patterns"])
    assert set(kept) == MODEL | {"a[b].png"} == set(uploaded_files(folder, read_config(folder)))


@pytest.mark.parametrize("file", sorted(MODEL - {"dm/model_index.json"}))
def test_what_does_not_load_is_not_uploaded(folder, calls, file):
    (folder / file).unlink()
    with pytest.raises(MissingFileError, match=file.split("/")[-1]):
        push(folder, "me/model")
    assert not calls


@pytest.mark.parametrize("repo", ["model", "a/b/c", "", "me/model@v1", "me/mo del"])
def test_names_that_are_refused_before_anything_is_read(tmp_path, calls, repo):
    with pytest.raises(InputError, match="is not org/name"):
        push(tmp_path / "none", repo)
    assert not calls


def test_a_hub_that_refuses(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no token")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ModelError, match=r"me/model: could not be uploaded \(no token\); log in"):
        push(folder, "me/model")
