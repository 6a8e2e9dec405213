"""A model folder to the Hub."""

from __future__ import annotations

from pathlib import Path

from ditifeat.model.config import read_config
from ditifeat.model.encoders import read_encoder
from ditifeat.pretrained.models import load_model


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Uploads a model folder to the Hub, after it was loaded whole; returns the commit's address.

    Raises:
        ModelError: if the folder is not a whole model.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    # What does not load is not published.
    config = read_config(folder)
    read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
    if config.method != "contrastive":
        load_model(config, folder, None)
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    files = ["config.json", "*.safetensors", "README.md", "dm/**", "vae/**", "*.png", "*.json"]
    return str(api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files))
