"""Configurations of diffusion models on the Hub as they were published, with the keys and names of diffusers 0.0.4 to 0.1.3.

After `config.json` and `scheduler_config.json` of google/ddpm-cifar10-32 and google/ddpm-cat-256, and `unet/`, `vqvae/` and
`scheduler/` of CompVis/ldm-celebahq-256, as they are quoted in public repositories (whaler404/Hf-Learn:
diffusers_learn/api/models/unets/unet2dmodel/unet2dmodel.md, and DDPM configurations for data attribution); the latent one
agrees with CompVis/latent-diffusion's celebahq-ldm-vq-4.yaml. The 256 px ones of google differ in their weights alone.
"""

import json

import torch
from diffusers import UNet2DModel, VQModel
from safetensors.torch import save_file

from ditifeat.model.diffusers_folder import OLD_ATTENTION

LINEAR = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
    "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
    "variance_type": "fixed_small",
}  # fmt: skip

GOOGLE = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3,
    "time_embedding_type": "positional",
}  # fmt: skip

CIFAR = {
    **GOOGLE,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "sample_size": 32,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}

LARGE = {
    **GOOGLE,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}

LATENT = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": 32,
    "block_out_channels": [224, 448, 672, 896], "center_input_sample": False,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3], "downsample_padding": 1, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 64, "time_embedding_type": "positional",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
}  # fmt: skip

SCALED = {
    "_class_name": "DDIMScheduler", "_diffusers_version": "0.0.4", "beta_end": 0.0195, "beta_schedule": "scaled_linear",
    "beta_start": 0.0015, "clip_sample": False, "num_train_timesteps": 1000, "timestep_values": None,
    "trained_betas": None,
}  # fmt: skip

VQ = {
    "_class_name": "VQModel", "_diffusers_version": "0.1.2", "act_fn": "silu", "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3, "in_channels": 3, "latent_channels": 3, "layers_per_block": 2,
    "num_vq_embeddings": 8192, "out_channels": 3, "sample_size": 256, "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip

# name: image size, U-Net, scheduler, VAE
PUBLISHED = {
    "google/ddpm-cifar10-32": (32, CIFAR, LINEAR, None),
    **{f"google/ddpm-{of}-256": (256, LARGE, LINEAR, None) for of in ("celebahq", "church", "cat", "bedroom")},
    "CompVis/ldm-celebahq-256": (256, LATENT, SCALED, VQ),
}


def with_fewer_channels(config, by):
    return {**config, "block_out_channels": [channels // by for channels in config["block_out_channels"]]}


def write_published(folder, name, divisor=1):
    """Writes a published DM in its repository's layout, with random weights; channels divided by `divisor`."""
    _, unet, scheduler, vae = PUBLISHED[name]
    places = (folder / "unet", folder / "scheduler") if vae else (folder, folder)
    torch.manual_seed(0)
    write_network(places[0], UNet2DModel, with_fewer_channels(unet, divisor))
    places[1].mkdir(exist_ok=True)
    (places[1] / "scheduler_config.json").write_text(json.dumps(scheduler))
    if vae:
        write_network(folder / "vqvae", VQModel, with_fewer_channels(vae, {1: 1, 7: 4}[divisor]))
    return folder


def write_network(folder, kind, config):
    """As diffusers of 2022 wrote it, with its names of attention's layers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    network = kind(**{key: value for key, value in config.items() if not key.startswith("_")})
    tensors = network.state_dict()
    for old, new in OLD_ATTENTION.items():
        tensors = {key.replace(new, old) if "attentions" in key else key: value for key, value in tensors.items()}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, folder / "diffusion_pytorch_model.safetensors"
    )
    return network
