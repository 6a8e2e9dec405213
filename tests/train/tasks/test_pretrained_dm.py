"""`dm.pretrained` and `--dm`: DMs of the Hub as published train, are saved, loaded, inverted and sampled; others are refused."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DModel

from ditifeat import ModelError, RecipeError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.model.config import read_config
from ditifeat.model.diffusion import DiffusionModel, read_unet_config
from ditifeat.model.partition import TimeStepPartition
from ditifeat.pretrained.models import load_model
from ditifeat.train.recipe import load_recipe, recipe_from_dict, recipe_to_dict
from ditifeat.train.sections import CodecRecipe, DMRecipe, Optimiser
from ditifeat.train.tasks.diti import DiTiRecipe, build_diti
from ditifeat.train.tasks.dm import frozen_dm
from tests.conftest import tiny_recipe
from tests.fake_hub import COMMIT
from tests.model.published import CIFAR, LINEAR, PUBLISHED, with_fewer_channels, write_network, write_published


def recipe_for(name, size, codec="pixels", **changes):
    values = {
        "image": Preprocessing(size), "codec": CodecRecipe(codec), "encoder": f"diti{size}",
        "partition": TimeStepPartition(64, 64), "dm": DMRecipe(pretrained=str(name)),
    }  # fmt: skip
    return tiny_recipe(**values | changes)


def run_of(recipe, folder):
    return SimpleNamespace(recipe=recipe, folder=folder)


def train_save_load_invert_sample(run, options, steps=2):
    """What a user does with a DM from `--dm` to `edit`; returns the loaded model."""
    model = build_diti(run.recipe, *frozen_dm(run))
    size = run.recipe.image.size
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    noise = torch.randn(1, *model.noise_shape, generator=generator)
    trained = [*model.encoder.parameters(), *model.estimator.parameters()]
    adam = torch.optim.Adam(trained, lr=1e-3)
    first = model.loss(x_0, torch.tensor([500]), noise)
    first.backward()
    adam.step()
    with torch.no_grad():
        assert model.loss(x_0, torch.tensor([500]), noise) != first
    model.requires_grad_(False).eval().save(run.folder / "model")
    del adam, trained
    config = read_config(run.folder / "model")
    loaded = load_model(config, run.folder / "model", None, options)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    z = loaded.encoder(x_0)
    for solver in ("ddim", "fixed_point"):
        x_T = loaded.invert(x_0, z, steps, solver)
        assert tuple(x_T.shape[1:]) == loaded.noise_shape and x_T.isfinite().all()
        made = loaded.sample(x_T, z, steps, solver=solver)
        assert made.shape == x_0.shape and made.isfinite().all()
    return loaded


@pytest.mark.parametrize(
    "named,divisor",
    [
        ("pretrained32", 4),
        pytest.param("pretrained256", 4, marks=pytest.mark.slow),  # church, cat and bedroom are the same
        pytest.param("pretrained256-latent", 7, marks=pytest.mark.slow),
    ],
)
def test_published_dms_with_fewer_channels(hub, tmp_path, named, divisor):
    """By the recipes that name them, from the Hub, so that the model holds a reference and no copy."""
    recipe = load_recipe(named)
    name = recipe.dm.pretrained
    size, unet, _, vae = PUBLISHED[name]
    assert recipe.image.size == size
    hub.repos[name] = write_published(tmp_path / "dm", name, divisor)
    run = run_of(recipe, tmp_path / "run")
    (tmp_path / "run").mkdir()
    model = train_save_load_invert_sample(run, hub.options)
    assert model.config.dm.repo == name and model.config.dm.commit == COMMIT
    assert not (tmp_path / "run" / "model" / "dm").exists()
    assert model.dm.unet.config.block_out_channels == with_fewer_channels(unet, divisor)["block_out_channels"]
    assert model.noise_shape == (3, unet["sample_size"], unet["sample_size"]) and model.codec.bounded == (vae is None)
    needed = {"config.json", "diffusion_pytorch_model.safetensors"}
    nested = {f"{place}/{file}" for place in ("unet", "vqvae") for file in needed} | {"scheduler/scheduler_config.json"}
    # The first request shows whether the U-Net lies in a folder.
    assert set(hub.asked) == (nested if vae else {"unet/config.json", "scheduler_config.json", *needed})


@pytest.mark.slow
def test_a_published_dm_at_full_width(hub, tmp_path):
    folder = write_published(tmp_path / "dm", "google/ddpm-cifar10-32")
    (tmp_path / "run").mkdir()
    train_save_load_invert_sample(run_of(recipe_for(folder, 32), tmp_path / "run"), hub.options)


@pytest.mark.parametrize("name,millions", [("cifar10-32", 35.7), ("celebahq-256", 113.7), ("ldm-celebahq-256", 274.1)])
def test_published_configurations_have_the_published_sizes(tmp_path, name, millions):
    """35.7 and 114 million parameters in Ho et al. 2020 (appendix B), 274 in Rombach et al. 2022 (table 12)."""
    (unet,) = (
        unet
        for repo, (_, unet, _, _) in PUBLISHED.items()
        if repo.endswith(f"/{name}") or repo.endswith(f"ddpm-{name}")
    )
    (tmp_path / "config.json").write_text(json.dumps(unet))
    made = read_unet_config(tmp_path)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_attention_of_old_configurations_has_the_heads_of_diffusers(tmp_path):
    """Null is one head over all channels; LDM's 32 are channels per head."""
    from ditifeat.model.unet import attention_layers

    for name, divisor in (("google/ddpm-cifar10-32", 4), ("CompVis/ldm-celebahq-256", 7)):
        folder = write_published(tmp_path / name, name, divisor)
        place = folder / "unet" if "ldm" in name else folder
        dm, theirs = DiffusionModel.load(folder), UNet2DModel.from_pretrained(place).eval()
        heads = {layer.to_q.out_features // layer.heads for layer in attention_layers(dm.unet)}
        assert heads == ({32} if "ldm" in name else {64})
        x_t, t = torch.randn(1, 3, 32, 32), torch.tensor([300])
        with torch.no_grad():
            assert torch.allclose(dm.noise(x_t, t), theirs(x_t, t).sample, atol=1e-5)


# Any U-Net, any schedule of the family.

SMALL = {**with_fewer_channels(CIFAR, 4), "block_out_channels": [32, 32], "layers_per_block": 1, "sample_size": 32} | {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip

BETAS = [0.001 + 0.01 * i / 999 for i in range(1000)]


def small_dm(folder, unet=None, **scheduler):
    write_network(folder, UNet2DModel, {**SMALL, **(unet or {})})
    (folder / "scheduler_config.json").write_text(json.dumps({**LINEAR, **scheduler}))
    return folder


@pytest.mark.parametrize(
    "scheduler",
    [
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
        {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"},
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace", "use_karras_sigmas": True},
        {"trained_betas": BETAS},
    ],
    ids=["v", "sample-cosine", "pndm", "scaled", "euler", "trained"],
)
def test_predictions_and_schedules(hub, tmp_path, scheduler, capfd):
    """Each with one of the two estimators, which are over any U-Net."""
    kind = "published" if "_class_name" in scheduler else "decoded"
    section = DiTiRecipe(Optimiser(80, batch=4), estimator=kind, warm_start=True)
    recipe = recipe_for(small_dm(tmp_path / "dm", **scheduler), 32, section=section)
    run = run_of(recipe, tmp_path / "run")
    (tmp_path / "run").mkdir()
    model = train_save_load_invert_sample(run, hub.options)
    assert model.schedule.prediction_type == scheduler.get("prediction_type", "epsilon")
    assert (tmp_path / "run" / "model" / "dm" / "unet").is_dir()  # a copy of the folder that was given
    assert "config attributes" not in capfd.readouterr().err  # diffusers' remark on keys of other schedulers


def test_improved_ddpm(hub, tmp_path):
    """4,000 time-steps of the cosine schedule, and a learnt variance, which is cut off."""
    folder = small_dm(
        tmp_path / "dm", {"out_channels": 6, "resnet_time_scale_shift": "scale_shift"},
        num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range",
    )  # fmt: skip
    dm, theirs = DiffusionModel.load(folder), UNet2DModel.from_pretrained(folder).eval()
    x_t, t = torch.randn(2, 3, 32, 32), torch.tensor([7, 3999])
    with torch.no_grad():
        assert torch.allclose(dm.noise(x_t, t), theirs(x_t, t).sample[:, :3], atol=1e-6)
    recipe = recipe_for(folder, 32, partition=TimeStepPartition(64, 64, num_time_steps=4000))
    (tmp_path / "run").mkdir()
    model = train_save_load_invert_sample(run_of(recipe, tmp_path / "run"), hub.options)
    saved = tmp_path / "run" / "model" / "dm"
    assert (
        model.dm.unet.config.out_channels
        == UNet2DModel.from_pretrained(saved, subfolder="unet").config.out_channels
        == 3
    )
    assert json.loads((saved / "scheduler" / "scheduler_config.json").read_text())["variance_type"] == "fixed_small"


@pytest.mark.parametrize(
    "unet,scheduler,words",
    [
        ({"_class_name": "UNet2DConditionModel"}, {}, "'UNet2DConditionModel' is not one of UNet2DModel .*conditional"),
        ({"_class_name": "DiTTransformer2DModel"}, {}, "it is a transformer"),
        ({"architectures": ["CLIPTextModel"], "model_type": "clip"}, {}, "unknown key architectures, model_type"),
        ({"num_class_embeds": 10}, {}, "takes a class"),
        ({"class_embed_type": "timestep"}, {}, "takes a class"),
        ({"time_embedding_type": "fourier"}, {}, "random Fourier features"),
        ({"resnet_time_scale_shift": "spatial"}, {}, "diffusers cannot build it"),
        ({"in_channels": 1, "out_channels": 1}, {}, "reads 1 channels, the codec pixels gives 3; .*greyscale"),
        ({"in_channels": 12, "out_channels": 12}, {}, r"kind: unshuffle, factor: 2"),
        ({"out_channels": 6}, {}, "maps 3 to 6 channels.*variance_type is one of learned"),
        ({"out_channels": 4}, {"variance_type": "learned"}, "maps 3 to 4 channels"),
        ({"sample_size": 64}, {}, r"trained on maps of 64 x 64, the recipe's 32 px give 32 x 32; give image\.size: 64"),
        ({"sample_size": [16, 64]}, {}, "trained on maps of 64 x 64"),
        ({}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "does not follow from betas, as flow"),
        ({}, {"_class_name": "EDMEulerScheduler"}, "'EDMEulerScheduler' is not one of"),
        ({}, {"prediction_type": "flow_prediction"}, "'flow_prediction' is not one of epsilon"),
        ({}, {"num_train_timesteps": 500}, r"500 time-steps, the partition 1000; give partition\.num_time_steps: 500"),
        ({}, {"trained_betas": BETAS[:10]}, "trained_betas are 10, num_train_timesteps = 1000"),
        ({}, {"rescale_betas_zero_snr": True}, "keep some signal"),
    ],
)
def test_dms_that_are_refused(tmp_path, unet, scheduler, words):
    unknown = ("_class_name", "architectures", "model_type", "resnet_time_scale_shift")
    folder = small_dm(tmp_path / "dm", {key: value for key, value in unet.items() if key not in unknown}, **scheduler)
    (folder / "config.json").write_text(json.dumps({**SMALL, **unet}))
    with pytest.raises((RecipeError, ModelError), match=words) as error:
        frozen_dm(run_of(recipe_for(folder, 32), tmp_path / "run"))
    assert str(folder) in str(error.value) or "frozen DM" in str(error.value)


def test_what_is_refused_is_not_fetched(hub, tmp_path):
    """Stable Diffusion's U-Net takes gigabytes, and its configuration says that it takes a text."""
    folder = small_dm(tmp_path / "dm")
    hub.repos["org/conditional"] = folder
    (folder / "config.json").write_text(json.dumps({**SMALL, "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ModelError, match="it is conditional"):
        frozen_dm(run_of(recipe_for("org/conditional", 32), tmp_path / "run"))
    assert set(hub.asked) == {"unet/config.json", "config.json", "scheduler_config.json"}


def test_a_latent_dm_is_not_taken_for_one_over_pixels(hub, tmp_path):
    """Its U-Net reads 3 channels of 64 x 64, as one over images of 64 px would."""
    folder = write_published(tmp_path / "dm", "CompVis/ldm-celebahq-256", 7)
    hub.repos["org/ldm"] = folder
    for name in (folder, "org/ldm"):
        with pytest.raises(
            RecipeError, match=r"over the latents of the VAE beside it; give the recipe codec: \{kind: vae\}"
        ):
            frozen_dm(run_of(recipe_for(name, 64), tmp_path / "run"))


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.bin", "diffusion_flax_model.msgpack", "model.ckpt"])
def test_weights_that_are_never_read(hub, tmp_path, file):
    folder = small_dm(tmp_path / "dm")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / file)
    hub.repos["org/old"] = folder
    for name in (folder, "org/old"):
        with pytest.raises(
            ModelError, match=r"other than safetensors .*never read; .*save_pretrained writes safetensors"
        ):
            frozen_dm(run_of(recipe_for(name, 32), tmp_path / "run"))
    assert file not in hub.asked


def test_the_fix_for_pickled_weights_works(tmp_path):
    """diffusers reads them with `weights_only=True`, and writes what is read here."""
    folder = small_dm(tmp_path / "dm")
    UNet2DModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "run").mkdir()
    UNet2DModel.from_pretrained(folder).save_pretrained(tmp_path / "new" / "unet")
    shutil.copytree(
        folder, tmp_path / "new" / "scheduler", ignore=lambda *_: ["config.json", "diffusion_pytorch_model.bin"]
    )
    dm, _ = frozen_dm(run_of(recipe_for(tmp_path / "new", 32), tmp_path / "run"))
    x_t, t = torch.randn(1, 3, 32, 32), torch.tensor([5])
    with torch.no_grad():
        assert torch.equal(dm.noise(x_t, t), UNet2DModel.from_pretrained(folder).eval()(x_t, t).sample)


@pytest.mark.parametrize("size,steps", [(64, 1000), (128, 2000)])
def test_the_keys_of_another_size(tmp_path, size, steps):
    """As the recipe's comments say, with a DM of that size and number of time-steps."""
    keys = recipe_to_dict(load_recipe("pretrained32"))
    keys["image"]["size"], keys["encoder"] = size, f"diti{size}"
    keys["partition"] |= {"num_time_steps": steps, "stages": [50, 100, 300, 500, steps]}
    keys["dm"]["pretrained"] = str(small_dm(tmp_path / "dm", {"sample_size": size}, num_train_timesteps=steps))
    recipe = recipe_from_dict(keys)
    (tmp_path / "run").mkdir()
    model = build_diti(recipe, *frozen_dm(run_of(recipe, tmp_path / "run")))
    assert model.encoder(torch.zeros(1, 3, size, size)).shape == (1, 512) and model.noise_shape == (3, size, size)
