"""VariationalInformationLoss by value: its variances learn, and where they end."""

import pytest
import torch
import torch.nn.functional as F
from references import variational_information as reference
from torch import Tensor

from mmkd.losses import VariationalInformationLoss, variational_information


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), 2 * draw(3, 4, 5, 6, seed=1) + 1


def test_it_is_the_likelihood_of_torch() -> None:
    variance = draw(4, seed=2).exp()
    expected = F.gaussian_nll_loss(STUDENT, TEACHER, variance.view(4, 1, 1).expand(3, 4, 5, 6))
    torch.testing.assert_close(variational_information(STUDENT, TEACHER, variance), expected)


def test_of_variance_one_it_is_half_of_the_squares() -> None:
    value = VariationalInformationLoss(4, variance=1.0).double()(STUDENT, TEACHER)
    torch.testing.assert_close(value, F.mse_loss(STUDENT, TEACHER) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize('variance', [1e-3, 1.0, 5.0, 100.0])
def test_variances_begin_where_they_are_told_to(variance: float) -> None:
    found = VariationalInformationLoss(3, variance).variances()
    torch.testing.assert_close(found, torch.full((3,), variance), rtol=1e-5, atol=0)


def test_variances_learn_until_each_is_the_mean_square_of_its_channel() -> None:
    loss = VariationalInformationLoss(4).double()
    scale = torch.tensor([0.1, 1.0, 2.0, 3.0]).view(4, 1, 1)
    student = scale * STUDENT
    teacher = student + scale * draw(3, 4, 5, 6, seed=3)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(600):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    expected = (student - teacher).square().mean((0, 2, 3))
    torch.testing.assert_close(loss.variances().detach(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss.diagnostics['variance'], expected.mean(), rtol=1e-3, atol=0)


def test_weights() -> None:
    """Ones change nothing; others are the reference's, beside a mask too."""
    loss, ones, weight = VariationalInformationLoss(4).double(), torch.ones(3, 5, 6), draw(3, 5, 6)
    weight = weight.relu()
    mask = torch.arange(90).view(3, 5, 6) % 3 != 1
    for kept in (None, mask):
        whole = loss(STUDENT, TEACHER, kept)
        assert loss(STUDENT, TEACHER, kept, ones) == whole
        expected = reference.variational_information(
            STUDENT, TEACHER, loss.variances(), kept, weight
        )
        got = loss(STUDENT, TEACHER, kept, weight)
        assert got.item() == pytest.approx(expected)
        assert abs(got - whole) > 1e-4


def test_channels_that_are_left_out_are_found() -> None:
    loss = VariationalInformationLoss()
    with pytest.raises(RuntimeError, match='variances are not built.*Mend: channels='):
        loss(STUDENT, TEACHER)
    assert loss.build(STUDENT, TEACHER) == '4 variances, one a channel'
    assert loss.build(STUDENT, TEACHER) == ''
    assert [(name, p.shape) for name, p in loss.named_parameters()] == [('raw', (4,))]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r'variance \(3,\) must be one a channel .* mend'):
        VariationalInformationLoss(3)(STUDENT, TEACHER)
    with pytest.raises(ValueError, match='variance must be above 1e-05'):
        VariationalInformationLoss(variance=1e-6)
    with pytest.raises(ValueError, match='variance must be a finite number'):
        VariationalInformationLoss(variance=-1.0)
    with pytest.raises(ValueError, match='channels must be a whole number'):
        VariationalInformationLoss(channels=0)
    with pytest.raises(ValueError, match='variational information needs maps'):
        variational_information(STUDENT, TEACHER[:, :3], torch.ones(4))
    with pytest.raises(ValueError, match='weight must have the shape'):
        variational_information(STUDENT, TEACHER, torch.ones(4), weight=torch.ones(3))
