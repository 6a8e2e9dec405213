import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ditifeat import InputError
from ditifeat.model.diti import DiTi
from ditifeat.model.estimator import ConditionalUNet, GradientEstimator
from ditifeat.model.sampling import slerp
from ditifeat.train.sections import Optimiser
from ditifeat.train.tasks.diti import DiTiRecipe, DiTiTask
from tests.conftest import random_model, tiny_recipe


def batch(model, count=4):
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(count, *model.noise_shape, generator=generator)
    return x_0, torch.tensor([3, 333, 666, 999])[:count], noise


def naive_loss(model, x_0, t, noise, z, relative=False):
    """The loss of DESIGN section 3, image by image, with the code given; or as a share of the frozen DM's error."""
    schedule, losses = model.dm.schedule, []
    for i in range(len(x_0)):
        x = model.dm.codec.encode(x_0[i : i + 1])
        x_t = schedule.alpha_bar[t[i]].sqrt() * x + (1 - schedule.alpha_bar[t[i]]).sqrt() * noise[i]
        z_bar = z[i : i + 1].clone()
        z_bar[:, model.partition.boundaries[model.partition.subset(int(t[i])) + 1] :] = 0
        shift = model.shift(x_t, t[i : i + 1], z_bar, cumulative=False)
        frozen = model.frozen_noise(x_t, t[i : i + 1])
        weight = 1 / (noise[i] - frozen).square().mean() if relative else schedule.loss_weight[t[i]]
        losses.append(weight * (noise[i] - frozen - schedule.shift_coefficient[t[i]] * shift).square().mean())
    return torch.stack(losses).mean()


def test_loss_against_a_naive_loop(tiny_model):
    x_0, t, noise = batch(tiny_model)
    expected = naive_loss(tiny_model, x_0, t, noise, tiny_model.encoder(x_0))
    assert torch.allclose(tiny_model.loss(x_0, t, noise), expected, rtol=1e-5)
    assert torch.allclose(tiny_model.loss(x_0, t, noise, "on"), expected, rtol=1e-5)
    assert torch.allclose(tiny_model.loss(x_0, t, noise, "both"), 2 * expected, rtol=1e-5)


def test_relative_loss_against_a_naive_loop(tiny_model):
    x_0, t, noise = batch(tiny_model)
    expected = naive_loss(tiny_model, x_0, t, noise, tiny_model.encoder(x_0), relative=True)
    found = tiny_model.losses(x_0, t, noise, weighting="relative")
    assert torch.allclose(found.loss.mean(), expected, rtol=1e-5)
    assert torch.allclose(found.frozen, torch.ones(len(x_0)), rtol=1e-5)


def test_detach_lets_gradients_into_the_current_subset_alone(tiny_model):
    z = torch.randn(2, 32, requires_grad=True)
    t = torch.tensor([300, 999])
    (gradient,) = torch.autograd.grad(tiny_model.cumulative_code(z, t, detach=True).sum(), z)
    assert torch.equal(gradient, tiny_model.subset_masks[tiny_model.partition.subset(t)])
    (gradient,) = torch.autograd.grad(tiny_model.cumulative_code(z, t).sum(), z)
    assert torch.equal(gradient, tiny_model.cumulative_masks[tiny_model.partition.subset(t)])


def test_unknown_detach_is_refused(tiny_model):
    with pytest.raises(InputError, match="off, on, both"):
        tiny_model.loss(*batch(tiny_model), "yes")


def test_the_frozen_dm_stays_as_it_is(tiny_model):
    model = tiny_model.requires_grad_(True)
    model.dm.requires_grad_(False)
    before = {key: value.clone() for key, value in model.dm.state_dict().items()}
    task = DiTiTask(model, DiTiRecipe(Optimiser(32, 32), "on")).train()
    assert not model.dm.training
    parameters = list(task.trained.parameters())
    adam = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(3):
        task(*batch(model))["loss"].mean().backward()
        adam.step()
    assert all(torch.equal(value, before[key]) for key, value in model.dm.state_dict().items())
    assert all(p.grad is None for p in model.dm.parameters())
    assert all(p.grad is not None for p in parameters)


def test_swapping_codes_changes_the_image(tiny_model):
    x_0, _, noise = batch(tiny_model, 2)
    z = tiny_model.encoder(x_0)
    kept, swapped = tiny_model.sample(noise, z, 10), tiny_model.sample(noise, z.flip(0), 10)
    assert (kept - swapped).abs().mean() > 1e-3


def test_later_subsets_do_not_matter_early(tiny_model):
    x_0, t, noise = batch(tiny_model)
    x_t = tiny_model.dm.schedule.add_noise(tiny_model.dm.codec.encode(x_0), noise, t)
    z = tiny_model.encoder(x_0)
    changed = z.clone()
    changed[:, tiny_model.partition.dims_of_subsets(3).start :] += 1
    same = [
        torch.equal(a, b) for a, b in zip(tiny_model.shift(x_t, t, z), tiny_model.shift(x_t, t, changed), strict=True)
    ]
    assert same == [True, True, False, False]  # subsets 0, 2, 5 and 7
    assert not torch.equal(tiny_model.shift(x_t, t, z, cumulative=False)[0], tiny_model.shift(x_t, t, z)[0])


def test_saved_and_loaded_is_the_same(tiny_model, tmp_path):
    tiny_model.std.uniform_(0.5, 2)
    tiny_model.save(tmp_path)
    loaded = DiTi.load(tmp_path)
    assert loaded.config == tiny_model.config
    for key, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_half_precision_model_loads_in_float32(tiny_model, tmp_path):
    tiny_model.save(tmp_path, torch.float16)
    loaded = DiTi.load(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    x_0, t, noise = batch(tiny_model)
    assert torch.allclose(loaded.loss(x_0, t, noise), tiny_model.loss(x_0, t, noise), rtol=0.02)


def test_dm_folder_is_one_that_diffusers_reads(tmp_path):
    from diffusers import DDPMPipeline

    recipe = tiny_recipe(codec=tiny_recipe().codec.__class__())
    model = random_model(recipe)
    model.save(tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "dm")
    x_t, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    with torch.no_grad():
        assert torch.allclose(pipeline.unet(x_t, t).sample, model.dm.unet(x_t, t).sample, atol=1e-5)
    assert pipeline.scheduler.config.beta_schedule == "linear"


@pytest.mark.parametrize("kind", ["shift", "noise", "frozen_noise"])
@pytest.mark.parametrize(
    "change,words",
    [
        (lambda x, t, z: (x[:, :3], t, z), r"shape \(4, 3, 16, 16\), expected \(B, 12, 16, 16\)"),
        (lambda x, t, z: (x[0], t, z), r"expected \(B, 12, 16, 16\)"),
        (lambda x, t, z: (x, t[:1], z), r"t has shape \(1,\)"),  # would be broadcast
        (lambda x, t, z: (x, t.float(), z), "expected integers"),
        (lambda x, t, z: (x, t - 4, z), r"t is within -1\.\.995, expected 0\.\.999"),  # would count from the end
        (lambda x, t, z: (x, t + 1, z), r"t is within 4\.\.1000"),
        (lambda x, t, z: (x, t, z[:1]), r"z has shape \(1, 32\), expected \(4, 32\)"),
        (lambda x, t, z: (x, t, z[:, :31]), r"z has shape \(4, 31\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tiny_model, kind, change, words):
    _, t, noise = batch(tiny_model)
    x_t, t, z = change(noise, t, torch.zeros(4, 32))
    if kind == "frozen_noise":
        if z.shape != (4, 32):
            pytest.skip("it takes no code")
        with pytest.raises(InputError, match=words):
            tiny_model.frozen_noise(x_t, t)
        return
    with pytest.raises(InputError, match=words):
        getattr(tiny_model, kind)(x_t, t, z)


def test_images_and_noises_that_do_not_fit_are_refused(tiny_model):
    x_0, t, noise = batch(tiny_model)
    with pytest.raises(InputError, match=r"images have shape \(4, 3, 16, 32\), expected \(B, 3, 32, 32\)"):
        tiny_model.loss(x_0[:, :, :16], t, noise)
    with pytest.raises(InputError, match="images have shape"):
        tiny_model.invert(x_0[:, :1], None)
    with pytest.raises(InputError, match="x_t, x_T and noise have shape"):
        tiny_model.loss(x_0, t, noise[:, :1])
    with pytest.raises(InputError, match="x_t, x_T and noise have shape"):
        tiny_model.sample(x_0, None, 2)
    with pytest.raises(InputError, match="coefficient = 'learnt' is not one of published, trained"):
        tiny_model.noise(noise, t, None, coefficient="learnt")
    for solver in ("implicit", None):
        with pytest.raises(InputError, match="is not one of ddim, fixed_point"):
            tiny_model.sample(noise, None, 2, solver=solver)


def test_networks_on_a_frozen_unet_begin_in_training_mode(tiny_model):
    """Copied in eval mode, a warm-started estimator would learn without the recipe's dropout."""
    unet = tiny_model.dm.unet.eval()
    for network in (GradientEstimator(unet, 32, warm_start=True), ConditionalUNet(unet, 32)):
        assert all(module.training for module in network.modules())
    assert not any(module.training for module in unet.modules())


class NoDoubles(TorchDispatchMode):
    """Refuses what devices without float64 (mps) refuse."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, function
        return made


def test_no_float64_on_the_device(tiny_model):
    x_0, t, noise = batch(tiny_model, 2)
    tiny_model.encoder.requires_grad_(True)
    tiny_model.estimator.requires_grad_(True)
    assert all(tensor.dtype != torch.float64 for tensor in tiny_model.state_dict().values())
    with NoDoubles():
        tiny_model.loss(x_0, t, noise, "both").backward()
        with torch.no_grad():
            z = tiny_model.encoder(x_0)
        for solver in ("ddim", "fixed_point"):
            tiny_model.sample(tiny_model.invert(x_0, z, 3, solver), z, 3, solver=solver)
        slerp(noise, noise.flip(0), 0.3)
