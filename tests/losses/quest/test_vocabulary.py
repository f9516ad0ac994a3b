"""Vocabulary: words, the assignment to them, and the temperature that 'auto' finds."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from references.assignment_kl import teacher_assignment
from scipy.spatial.distance import cdist
from sklearn.datasets import make_blobs
from torch import Tensor

from mmkd.losses import Vocabulary
from mmkd.losses.quest.vocabulary import ORIGIN


def blobs(
    number: int = 600, centres: int = 5, channels: int = 4, spread: float = 0.3, seed: int = 0
) -> tuple:
    """Return vectors around well separated centres, and the centres."""
    where = 10 * np.random.default_rng(seed).permutation(centres * channels).reshape(
        centres, channels
    )
    vectors, _ = make_blobs(
        number, centers=where.astype(float), cluster_std=spread, random_state=seed
    )
    return torch.from_numpy(vectors).float(), where


def origin(*differing: str) -> Tensor:
    """Return a fingerprint that differs from ``origin()`` in these."""
    return torch.stack(
        [torch.full((32,), 9 if what in differing else 5, dtype=torch.uint8) for what in ORIGIN]
    )


def test_assignment_equals_the_slow_loop() -> None:
    vocabulary = Vocabulary(6, 3, tau=0.7).double()
    vocabulary.words.copy_(torch.randn(6, 3))
    vectors = torch.randn(5, 3, dtype=torch.float64)
    expected = [teacher_assignment(f, vocabulary.words, 0.7) for f in vectors.tolist()]
    torch.testing.assert_close(vocabulary.assign(vectors), torch.tensor(expected).double())


def test_fit_finds_the_centres_and_draws_no_random_number() -> None:
    vectors, centres = blobs()
    vocabulary = Vocabulary(5, 4)
    assert not vocabulary.fitted
    states = torch.get_rng_state(), np.random.get_state()[1]
    report = vocabulary.fit(vectors, seed=3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert vocabulary.fitted
    distance = cdist(vocabulary.words, centres)
    assert sorted(distance.argmin(1)) == list(range(5))
    assert distance.min(1).max() < 0.2
    to_words = cdist(vectors, vocabulary.words) ** 2
    p = torch.from_numpy(-to_words / 0.2).softmax(1)
    assert report == pytest.approx(
        dict(
            vectors=600,
            inertia=to_words.min(1).mean(),
            words_used=5,
            tau=0.2,
            confidence=p.amax(1).mean().item(),
            assignment=math.exp(torch.special.entr(p).sum(1).mean()),
        ),
        rel=1e-4,
    )
    again = Vocabulary(5, 4)
    again.fit(vectors, seed=3)
    assert torch.equal(again.words, vocabulary.words)


@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
@pytest.mark.parametrize('target', [1.5, 4.0, 10.0])
def test_auto_reaches_the_target_perplexity_whatever_the_units(target: float, scale: float) -> None:
    """The perplexity that the words have on the vectors; tau grows with the square of the
    features.
    """
    vectors = torch.randn(500, 6)
    vocabulary = Vocabulary(20, 6, tau='auto', target_perplexity=target)
    report = vocabulary.fit(vectors * scale)
    p = torch.from_numpy(-(cdist(vectors * scale, vocabulary.words) ** 2) / report['tau']).softmax(
        1
    )
    assert torch.special.entr(p).sum(1).mean().exp().item() == pytest.approx(target, rel=1e-4)
    assert report['assignment'] == pytest.approx(target, rel=1e-4)
    assert (
        vocabulary.tau.item()
        == report['tau']
        == pytest.approx(
            Vocabulary(20, 6, tau='auto', target_perplexity=target).fit(vectors)['tau'] * scale**2,
            rel=1e-2,
        )
    )


def test_only_an_automatic_tau_is_in_the_state_dict() -> None:
    """A number is the config's: it must not come back from an old checkpoint."""
    fitted = Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    assert fitted.tau.isnan()
    fitted.fit(blobs()[0])
    assert list(fitted.state_dict()) == ['words', 'tau', 'fingerprint'], 'as 0.1 saved them'
    resumed = Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    resumed.load_state_dict(fitted.state_dict())
    assert resumed.tau == fitted.tau
    assert resumed.fitted
    assert set(Vocabulary(5, 4).state_dict()) == {'words', 'fingerprint'}
    resumed.tau.fill_(math.nan)
    assert not resumed.fitted  # words written by hand leave tau='auto' open


def test_describe_counts_words_and_measures_distances() -> None:
    vocabulary = Vocabulary(4, 1, tau=1e-6)
    vocabulary.words.copy_(torch.tensor([[0.0], [1.0], [2.0], [50.0]]))
    vectors = torch.tensor([[0.1], [-0.1], [1.0], [2.3]])
    share = torch.tensor([0.5, 0.25, 0.25])
    assert vocabulary.describe(vectors) == pytest.approx(
        dict(
            vectors=4,
            inertia=(0.01 + 0.01 + 0.09) / 4,
            words_used=math.exp(torch.special.entr(share).sum()),
            tau=1e-6,
            confidence=1,
            assignment=1,
        ),
        rel=1e-5,
    )


@pytest.mark.bad_input
def test_a_fingerprint_says_what_differs() -> None:
    vocabulary = Vocabulary(5, 4)
    vocabulary.check(origin())  # words of unknown origin serve whom they are given to
    vocabulary.fingerprint.copy_(origin())
    vocabulary.check(origin())
    for what, words in (
        ('teacher', r'another teacher \(other weights'),
        ('tap', 'another tap of the teacher, so'),
        ('pooling', "another pooling of the teacher's map"),
    ):
        with pytest.raises(
            ValueError,
            match=rf'fitted to {words}.*Mend: give back the {what} that it was fitted with',
        ):
            vocabulary.check(origin(what))
    with pytest.raises(
        ValueError, match='another teacher .* and another tap .*give back the teacher, tap that'
    ):
        vocabulary.check(origin('teacher', 'tap'))


@pytest.mark.bad_input
def test_files(tmp_path: Path) -> None:
    vocabulary = Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    state = dict(words=torch.randn(5, 4), tau=torch.tensor(0.3), fingerprint=origin())
    path = tmp_path / 'words.pth'
    torch.save(dict(state_dict=state), path)
    vocabulary.load(path)
    assert vocabulary.fitted
    assert all(torch.equal(getattr(vocabulary, key), value) for key, value in state.items())
    fixed = Vocabulary(5, 4, tau=7.0)
    fixed.load(path)
    assert fixed.tau == 7.0
    with pytest.raises(
        ValueError,
        match=r"words.pth' holds 5 words of 4 channels, but the loss has num_words=6 and a "
        'teacher of 4 channels. Mend: num_words=5, or fit one',
    ):
        Vocabulary(6, 4).load(path)
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), path)
    with pytest.raises(
        ValueError, match=r"words.pth' is no vocabulary: it holds \['weight'\]. Mend: write one by"
    ):
        vocabulary.load(path)


GOOD = dict(words=torch.arange(20.0).view(5, 4), tau=torch.tensor(0.3), fingerprint=origin())
INFINITE = GOOD['words'].clone()
INFINITE[3, 1], INFINITE[4, 0] = math.inf, math.nan
DAMAGED = [
    (
        dict(tau=torch.tensor(0.0)),
        r'tau must be a finite number above 0, got 0\.0\. Mend: copy the file again',
    ),
    (dict(tau=torch.tensor(-0.2)), 'tau must be a finite number above 0, got -0.2'),
    (dict(tau=torch.tensor(math.inf)), 'tau must be a finite number above 0, got inf'),
    (dict(tau=torch.tensor(1)), r'tau must be a floating-point number \(\), got torch.int64 \(\)'),
    (
        dict(tau=torch.ones(2)),
        r'tau must be a floating-point number \(\), got torch.float32 \(2,\)',
    ),
    (dict(words=INFINITE), r'2 of its 5 words hold NaN or Inf\. Mend: .*mmkd fit-vocabulary'),
    (
        dict(words=torch.ones(5, 4, dtype=torch.int32)),
        r'words must be floating-point \(K, C\), got torch.int32 \(5, 4',
    ),
    (dict(words=torch.ones(5, 4, dtype=torch.complex64)), 'got torch.complex64'),
    (
        dict(words=torch.ones(20)),
        r'words must be floating-point \(K, C\), got torch.float32 \(20,\)',
    ),
    (
        dict(words=torch.tensor(1.0)),
        r'words must be floating-point \(K, C\), got torch.float32 \(\)',
    ),
    (dict(words=torch.ones(1, 5, 4)), r'got torch.float32 \(1, 5, 4\)'),
    (
        dict(fingerprint=torch.zeros(3, 32)),
        r'fingerprint must be torch.uint8 \(3, 32\), got torch.float32 \(3, 32\)',
    ),
    (dict(fingerprint=torch.zeros(3, dtype=torch.uint8)), r'got torch.uint8 \(3,\)'),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(('part', 'message'), DAMAGED)
def test_damaged_files_and_checkpoints_are_refused(
    part: dict, message: str, tmp_path: Path
) -> None:
    path, vocabulary = tmp_path / 'words.pth', Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    torch.save(dict(state_dict=GOOD | part), path)
    with pytest.raises(ValueError, match=f"vocabulary='.*words.pth': .*{message}"):
        vocabulary.load(path)
    holder = torch.nn.ModuleDict(dict(quest=vocabulary))
    with pytest.raises(ValueError, match=f"the vocabulary 'quest' of this checkpoint: .*{message}"):
        holder.load_state_dict({f'quest.{key}': value for key, value in (GOOD | part).items()})
    assert not vocabulary.fitted, 'nothing of it was taken'
    assert not vocabulary.fingerprint.any()


@pytest.mark.bad_input
def test_a_file_of_tau_nan_and_a_checkpoint_before_the_fit(tmp_path: Path) -> None:
    path, vocabulary = tmp_path / 'words.pth', Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    torch.save(dict(state_dict=GOOD | dict(tau=torch.tensor(math.nan))), path)
    with pytest.raises(ValueError, match='tau must be a finite number above 0, got nan'):
        vocabulary.load(path)
    vocabulary.load_state_dict(Vocabulary(5, 4, tau='auto', target_perplexity=2.0).state_dict())
    assert not vocabulary.fitted
    vocabulary.load_state_dict(GOOD)
    assert vocabulary.fitted


@pytest.mark.bad_input
def test_words_that_were_spoilt_in_memory_are_refused_before_use() -> None:
    vocabulary = Vocabulary(5, 4, tau='auto', target_perplexity=2.0)
    vocabulary.load_state_dict(GOOD)
    assert vocabulary.fitted
    vocabulary.words[2, 2] = math.inf
    with pytest.raises(ValueError, match='the vocabulary: 1 of its 5 words hold NaN or Inf'):
        _ = vocabulary.fitted
    vocabulary.words.copy_(GOOD['words'])
    vocabulary.tau.fill_(0.0)
    with pytest.raises(
        ValueError, match='the vocabulary: tau must be a finite number above 0, got 0.0'
    ):
        _ = vocabulary.fitted


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('vectors', 'message'),
    [
        (
            torch.randn(4, 4),
            '4 vectors are too few for 5 words. Mend: num_words=2 or less, or more vectors',
        ),
        (torch.randn(9, 3), r'a vocabulary of 4 channels needs vectors \(P, 4\), got \(9, 3\)'),
        (
            torch.full((9, 4), math.nan),
            "teacher's features hold NaN or Inf, so no words can be fitted. Mend: check its",
        ),
    ],
)
def test_vectors_that_do_not_serve(vectors: Tensor, message: str) -> None:
    vocabulary = Vocabulary(5, 4)
    with pytest.raises(ValueError, match=message):
        vocabulary.fit(vectors)
    assert not vocabulary.fitted


@pytest.mark.bad_input
@pytest.mark.filterwarnings('ignore:Number of distinct clusters')  # scikit-learn says so too
def test_equal_vectors_have_no_temperature() -> None:
    vocabulary = Vocabulary(8, 4, tau='auto', target_perplexity=1.2)
    with pytest.raises(
        ValueError,
        match="tau='auto' finds no tau of assignment perplexity 1.2: too many words are "
        'equal.*Mend: fewer words, a tap whose features vary, or a tau of your own',
    ):
        vocabulary.fit(
            1e-30 * torch.arange(100.0)[:, None].repeat(1, 4)
        )  # different, but squared distances are 0
    assert not vocabulary.fitted


@pytest.mark.bad_input
def test_as_many_different_vectors_as_words_are_needed() -> None:
    """120 vectors of 3 kinds are 3 vectors; 6 words that are found late are enough."""
    kinds = torch.eye(3).repeat(40, 1)
    with pytest.raises(
        ValueError, match='the 120 vectors hold 3 different ones, too few for 8 words. Mend: num'
    ):
        Vocabulary(8, 3, tau=1.0).fit(kinds)
    late = torch.cat([torch.zeros(100, 3), torch.eye(3), 2 * torch.eye(3)])
    vocabulary = Vocabulary(6, 3, tau=1.0)
    vocabulary.fit(late)
    assert vocabulary.fitted
