import math

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler

from ditifeat import ModelError
from ditifeat.model.schedule import SCHEDULERS, NoiseSchedule, ddpm_config, scheduler_betas

LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def test_coefficients_against_a_loop():
    schedule = NoiseSchedule(scheduler_betas(LINEAR))
    alpha_bar = 1.0
    for t in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * t / 999
        previous, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        snr = alpha_bar / (1 - alpha_bar)
        assert math.isclose(schedule.alpha_bar[t], alpha_bar, rel_tol=1e-6)
        c_t = -math.sqrt(1 - beta) * (1 - previous) / math.sqrt(1 - alpha_bar)
        assert math.isclose(schedule.shift_coefficient[t], c_t, rel_tol=1e-5, abs_tol=1e-9)
        assert math.isclose(schedule.loss_weight[t], snr**0.1 / (1 + snr), rel_tol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_output_means_the_noise_and_the_image(kind):
    schedule = NoiseSchedule(scheduler_betas(LINEAR), kind)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.rand(5, 3, 4, 4, generator=generator) * 2 - 1, torch.randn(5, 3, 4, 4, generator=generator)
    t = torch.tensor([0, 10, 300, 700, 999])
    x_t = schedule.add_noise(x_0, noise, t)
    output = schedule.target(x_0, noise, t)
    assert torch.allclose(schedule.to_noise(output, x_t, t), noise, atol=2e-4)
    assert torch.allclose(schedule.to_image(output, x_t, t), x_0, atol=2e-4)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(name):
    config = {**LINEAR, "beta_schedule": name}
    expected = DDPMScheduler.from_config(config).betas
    assert torch.allclose(scheduler_betas(config).float(), expected, rtol=1e-5)


def test_unusable_schedules_are_refused():
    with pytest.raises(ModelError, match="prediction type 'flow'"):
        NoiseSchedule(scheduler_betas(LINEAR), "flow")
    with pytest.raises(ModelError, match="some signal"):
        NoiseSchedule(torch.tensor([0.1, 1.0]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_a_configuration_does_not_say_is_its_class_s(kind):
    """An LCMScheduler without betas has Stable Diffusion's; a class that does not clip is saved as one that does not."""
    config = {"_class_name": kind, "num_train_timesteps": 20, "nonsense": 1}
    theirs = getattr(diffusers, kind)(20)
    assert torch.allclose(scheduler_betas(config).float(), theirs.betas, rtol=1e-5)
    saved = DDPMScheduler.from_config(ddpm_config(config))
    assert torch.allclose(saved.betas, theirs.betas) and saved.config.prediction_type == "epsilon"
    assert saved.config.clip_sample == theirs.config.get("clip_sample", False) and "nonsense" not in saved.config
