"""Second derivatives are right or refused: no autograd.Function of mmkd is left out of one without
a word.
"""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmkd
from mmkd.losses import (
    AssignmentKLLoss,
    PairWiseAffinityLoss,
    assignment_kl,
    memory_contrast,
    pair_wise_affinity,
    row_wise_kl,
)
from mmkd.losses.base import first_derivative_only
from mmkd.losses.ensemble.proxy_dirichlet import dirichlet_kl


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def functions() -> set[str]:
    """Return every class of mmkd's source that derives from autograd.Function."""
    found = set()
    for path in Path(mmkd.__file__).parent.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                'Function' in ast.unparse(base) for base in node.bases
            ):
                module = '.'.join(
                    path.relative_to(Path(mmkd.__file__).parents[1]).with_suffix('').parts
                )
                found.add(f'{module}.{node.name}')
    return found


TEACHER, WORDS, WEIGHT = draw(1, 3, 16, 16, seed=1), draw(5, 3, seed=2), draw(5, 3, seed=3)
CASES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    'mmkd.losses.relations.pair_wise_affinity._Gram': (
        lambda x: pair_wise_affinity(x, TEACHER, method='gram'),
        r"PairWiseAffinityLoss\(method='gram'\).*create_graph=True.*Mend: method='dense'",
    ),
    'mmkd.losses.relations.row_wise_kl._RowKL': (
        lambda x: row_wise_kl(x, TEACHER, method='chunked'),
        r"RowWiseKLLoss\(method='chunked'\).*create_graph=True.*Mend: method='dense'",
    ),
    'mmkd.losses.quest.assignment_kl._ChunkedKL': (
        lambda x: assignment_kl(x, TEACHER, WORDS, WEIGHT),
        'AssignmentKLLoss forms its gradient in the forward.*Mend: F.kl_div of',
    ),
    'mmkd.losses.memory.contrast._Contrast': (
        lambda x: memory_contrast(x, TEACHER, WORDS),
        'memory_contrast forms its gradient in the forward.*Mend: its formula, written with',
    ),
}


# Those that need no refusal: gradgradcheck proves them.
RIGHT = {'mmkd.losses.ensemble.proxy_dirichlet._DirichletKL': dirichlet_kl}


def test_every_function_is_there() -> None:
    assert functions() == {*CASES, *RIGHT}


@pytest.mark.parametrize('name', RIGHT)
@pytest.mark.parametrize('size', [1.0, 3e3])
def test_first_and_second_derivatives_that_are_right(name: str, size: float) -> None:
    """Near, and where the series takes over; of both arguments."""
    inputs = [(size * draw(2, 3, seed=n).exp()).requires_grad_() for n in (5, 6)]
    eps = 1e-5 * size
    assert torch.autograd.gradcheck(RIGHT[name], inputs, eps=eps)
    assert torch.autograd.gradgradcheck(RIGHT[name], inputs, eps=eps, atol=1e-7)


@pytest.mark.parametrize('name', CASES)
def test_create_graph_is_refused_and_the_first_derivative_is_not(name: str) -> None:
    call, message = CASES[name]
    student = draw(1, 3, 16, 16).requires_grad_()
    assert torch.autograd.grad(call(student), student)[0].abs().sum() > 0
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(call(student), student, create_graph=True)
    with pytest.raises(RuntimeError, match=message):  # the incoming gradient needs gradient itself
        torch.autograd.grad(call(student) ** 2, student, create_graph=True)


def test_the_mends_give_the_second_derivative() -> None:
    """Times a direction, against differences of the first derivative."""
    loss = AssignmentKLLoss(3, 3, num_words=5).double()
    loss.vocabulary.words.copy_(WORDS)
    divergence = torch.nn.functional.kl_div

    def written_out(x: Tensor) -> Tensor:
        log_s = loss.predictor(x).movedim(1, -1).flatten(0, 2).log_softmax(1)
        p_t = loss.vocabulary.assign(TEACHER.movedim(1, -1).flatten(0, 2))
        return divergence(log_s, p_t, reduction='batchmean')

    dense = PairWiseAffinityLoss(method='dense')
    for call, first in (
        (lambda x: dense(x, TEACHER), lambda x: pair_wise_affinity(x, TEACHER, method='gram')),
        (
            lambda x: row_wise_kl(x, TEACHER, method='dense'),
            lambda x: row_wise_kl(x, TEACHER, method='chunked'),
        ),
        (written_out, lambda x: loss(x, TEACHER)),
    ):
        x, direction = draw(1, 3, 16, 16).requires_grad_(), draw(1, 3, 16, 16, seed=4)
        (gradient,) = torch.autograd.grad(call(x), x, create_graph=True)
        (second,) = torch.autograd.grad((gradient * direction).sum(), x)
        ends = [(x + sign * 1e-6 * direction).detach().requires_grad_() for sign in (1, -1)]
        up, down = (torch.autograd.grad(first(end), end)[0] for end in ends)
        torch.testing.assert_close(second, (up - down) / 2e-6, rtol=1e-4, atol=1e-9)


def test_the_decorator_passes_everything_on_where_no_graph_is_made() -> None:
    seen = []
    backward = first_derivative_only('A', 'b')(lambda ctx, *grads: seen.append((ctx, grads)) or 3)
    with torch.no_grad():
        assert backward('ctx', 1, 2) == 3
    assert seen == [('ctx', (1, 2))]
    with pytest.raises(RuntimeError, match='^A forms its gradient.*Mend: b$'):
        backward('ctx', 1, 2)
