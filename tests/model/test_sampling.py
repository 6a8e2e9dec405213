from itertools import pairwise

import pytest
import torch

from ditifeat import InputError
from ditifeat.model.sampling import (
    ddim_grid,
    ddim_invert,
    ddim_sample,
    fixed_point_grid,
    fixed_point_invert,
    fixed_point_sample,
    slerp,
)
from ditifeat.model.schedule import NoiseSchedule, scheduler_betas

SCHEDULE = NoiseSchedule(scheduler_betas({"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}))
STD = 0.3  # of the Gaussian "images" whose perfect denoiser is known


def perfect_noise(x_t, t):
    """`E[eps | x_t]` when `x_0 ~ N(0, STD^2)`."""
    alpha_bar = SCHEDULE.alpha_bar[t][:, None, None, None]
    return (1 - alpha_bar).sqrt() * x_t / (alpha_bar * STD**2 + 1 - alpha_bar)


@pytest.mark.parametrize("steps", [1, 4, 8, 20, 30, 100, 300, 400, 999, 1000])
def test_ddim_takes_exactly_the_asked_number_of_evaluations(steps):
    grid = ddim_grid(1000, steps)
    assert len(set(grid)) == steps and grid == sorted(grid) and grid[0] == 0 and grid[-1] < 1000
    gaps = {b - a for a, b in pairwise([*grid, 1000])}
    assert max(gaps) - min(gaps) <= 1
    if 1000 % steps == 0:
        assert grid == list(range(0, 1000, 1000 // steps))  # as published
    asked = []
    ddim_sample(lambda x, t: asked.append(int(t[0])) or torch.zeros_like(x), SCHEDULE, torch.zeros(1, 3, 2, 2), steps)
    assert asked == grid[::-1]


@pytest.mark.parametrize(
    "steps,words",
    [(0, "1..1000"), (-1, "1..1000"), (1001, "1..1000"), (2.5, "integer"), (True, "integer"), ("9", "integer")],
)
def test_ddim_steps_that_are_refused(steps, words):
    with pytest.raises(InputError, match=rf"steps = .*{words}"):
        ddim_grid(1000, steps)


def test_samples_have_the_data_s_std():
    x_T = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x_0 = ddim_sample(perfect_noise, SCHEDULE, x_T, 100)
    assert x_0.std() == pytest.approx(STD, rel=0.05)


def test_inversion_and_sampling_undo_each_other():
    x_0 = STD * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
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


def test_fixed_point_grid():
    assert fixed_point_grid(1000, 4) == [10, 128, 342, 621, 950]
    assert len(set(fixed_point_grid(1000, 100))) == 101
    assert len(set(fixed_point_grid(1000, 146))) == 147


@pytest.mark.parametrize("steps", [0, -1, 147, 1000, 10**9])
def test_the_fixed_point_solver_says_how_many_steps_it_takes(steps):
    with pytest.raises(InputError, match=rf"steps = {steps}: the fixed-point solver takes 1 to 146 "):
        fixed_point_grid(1000, steps)


@pytest.mark.parametrize("total", [*range(2, 40), 100, 999])
def test_fixed_point_grids_of_few_time_steps(total):
    for steps in range(1, total):
        try:
            grid = fixed_point_grid(total, steps)
        except InputError as error:
            assert f"takes 1 to {steps - 1} for {total}" in str(error)  # no number below it is refused
            break
        assert grid == sorted(set(grid)) and len(grid) == steps + 1 and grid[0] >= 0 and grid[-1] < total


def test_one_time_step_is_too_few_for_the_fixed_point_solver():
    with pytest.raises(InputError, match="takes 1 to 0 for 1 time-steps"):
        fixed_point_grid(1, 1)


@pytest.mark.parametrize("steps", [2.5, True, "9", None])
def test_fixed_point_steps_are_integers(steps):
    with pytest.raises(InputError, match="must be an integer"):
        fixed_point_grid(1000, steps)


def test_fixed_point_round_trip():
    x_0 = STD * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    x_T = fixed_point_invert(perfect_noise, SCHEDULE, x_0, 20)
    error = float((fixed_point_sample(perfect_noise, SCHEDULE, x_T, 20) - x_0).square().mean())
    ddim = ddim_sample(perfect_noise, SCHEDULE, ddim_invert(perfect_noise, SCHEDULE, x_0, 20), 20)
    assert error < 1e-4 and error < float((ddim - x_0).square().mean()) / 10
    assert x_T.std() == pytest.approx(1, rel=0.1)


def test_a_fixed_point_step_against_its_formula():
    x_0 = torch.full((1, 1, 2, 2), 0.2)
    seen = []

    def noise(x, t):
        seen.append((int(t[0]), float(x[0, 0, 0, 0])))
        return torch.full_like(x, 0.7)

    a, b = (float(SCHEDULE.alpha_bar[t]) for t in (10, 950))
    x_T = fixed_point_invert(noise, SCHEDULE, x_0, 1)
    start = a**0.5 * 0.2
    expected = b**0.5 * (start - (1 - a) ** 0.5 * 0.7) / a**0.5 + (1 - b) ** 0.5 * 0.7
    assert seen == [(950, pytest.approx(start))] and float(x_T[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(fixed_point_sample(noise, SCHEDULE, x_T, 1)[0, 0, 0, 0]) == pytest.approx(0.2, abs=1e-3)
