import pytest
import torch

from ditifeat import InputError
from ditifeat.model.sampling import (
    ddim_invert,
    ddim_sample,
    implicit_invert,
    implicit_sample,
    inversion_ladder,
    slerp,
    time_steps,
)
from ditifeat.model.schedule import NoiseSchedule, scheduler_betas

SCHEDULE = NoiseSchedule(scheduler_betas({"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}))
DEVIATION = 0.3  # of the Gaussian "pictures" whose perfect denoiser is known


def perfect_noise(x_t, t):
    """`E[eps | x_t]` when `x_0 ~ N(0, DEVIATION^2)`."""
    alpha_bar = SCHEDULE.alpha_bar[t][:, None, None, None]
    return (1 - alpha_bar).sqrt() * x_t / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)


def test_time_steps():
    assert list(time_steps(1000, 4)) == [0, 250, 500, 750]
    assert len(time_steps(1000, 300)) == 334  # range(0, T, T // steps), as published
    for bad in (0, -1, 1001):
        with pytest.raises(InputError, match="not within"):
            time_steps(1000, bad)


def test_samples_have_the_data_s_deviation():
    x_T = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x_0 = ddim_sample(perfect_noise, SCHEDULE, x_T, 100)
    assert x_0.std() == pytest.approx(DEVIATION, rel=0.05)


def test_inversion_and_sampling_undo_each_other():
    x_0 = DEVIATION * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    errors = []
    for steps in (20, 100):
        x_T = ddim_invert(perfect_noise, SCHEDULE, x_0, steps)
        errors.append(float((ddim_sample(perfect_noise, SCHEDULE, x_T, steps) - x_0).square().mean()))
    assert errors[1] < errors[0] / 10 and errors[1] < 1e-3
    assert x_T.std() == pytest.approx(1, rel=0.1)


def test_clamping_is_for_bounded_spaces_alone():
    x_T = 5 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert ddim_sample(perfect_noise, SCHEDULE, x_T, 50).abs().max() <= 1
    assert ddim_sample(perfect_noise, SCHEDULE, x_T, 50, bounded=False).abs().max() > 1


def test_slerp():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.allclose(slerp(a, b, 0.5), torch.tensor([[0.5, 0.5]]).sqrt())
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-7)
    assert torch.allclose(slerp(a, 2 * a, 0.5), 1.5 * a)  # one direction: a straight line


def test_implicit_ladder():
    assert inversion_ladder(1000, 4) == [10, 128, 342, 621, 950]
    assert len(set(inversion_ladder(1000, 100))) == 101
    for bad in (0, -1, 1000):
        with pytest.raises(InputError, match="implicit"):
            inversion_ladder(1000, bad)


def test_the_implicit_way_back_is_the_way_there():
    x_0 = DEVIATION * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    x_T = implicit_invert(perfect_noise, SCHEDULE, x_0, 20)
    error = float((implicit_sample(perfect_noise, SCHEDULE, x_T, 20) - x_0).square().mean())
    ddim = ddim_sample(perfect_noise, SCHEDULE, ddim_invert(perfect_noise, SCHEDULE, x_0, 20), 20)
    assert error < 1e-4 and error < float((ddim - x_0).square().mean()) / 10
    assert x_T.std() == pytest.approx(1, rel=0.1)


def test_a_step_of_the_implicit_solver_against_its_formula():
    x_0 = torch.full((1, 1, 2, 2), 0.2)
    seen = []

    def noise(x, t):
        seen.append((int(t[0]), float(x[0, 0, 0, 0])))
        return torch.full_like(x, 0.7)

    a, b = (float(SCHEDULE.alpha_bar[t]) for t in (10, 950))
    x_T = implicit_invert(noise, SCHEDULE, x_0, 1)
    start = a**0.5 * 0.2
    expected = b**0.5 * (start - (1 - a) ** 0.5 * 0.7) / a**0.5 + (1 - b) ** 0.5 * 0.7
    assert seen == [(950, pytest.approx(start))] and float(x_T[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(implicit_sample(noise, SCHEDULE, x_T, 1)[0, 0, 0, 0]) == pytest.approx(0.2, abs=1e-3)
