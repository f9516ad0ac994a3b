"""The vocabulary of QUEST: words that quantise a teacher's feature map."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.losses.fitted.part import FittedPart
from mmkd.utils.checkpoints import load_state_dict_file
from mmkd.utils.checks import check_count, check_positive

# What words belong to, a digest each, and what it is called where it is not this one.
ORIGIN = {
    'teacher': FittedPart.origin['teacher'],
    'tap': FittedPart.origin['tap'],
    'pooling': "another pooling of the teacher's map (sizes of the maps, or channels)",
}
_DIGEST = 32  # bytes of a SHA-256
_CHUNK = 4096  # vectors that statistics look at together
# Vectors of one step of k-means: on blobs 0.1 % above full k-means in inertia; 1024 are 5 % above.
_BATCH = 16384
_CALIBRATION = 2048  # vectors that tau='auto' looks at
_ANEW = 'Mend: copy the file again from where it was fitted, or fit one anew: mmkd fit-vocabulary'


class Words(NamedTuple):
    """Words as distances need them, see :func:`shift_words`."""

    shifted: Tensor
    centre: Tensor
    square: Tensor


def shift_words(words: Tensor) -> Words:
    """Move words (K, C) to their mean: far from 0, ‖v‖² − 2⟨v, f⟩ would cancel to noise.

    Distances stay.
    """
    centre = words.mean(0)
    shifted = words - centre
    return Words(shifted, centre, shifted.square().sum(1))


def excess_distance(vectors: Tensor, words: Words) -> Tensor:
    """Return by how much the nearest word is nearer to each vector than each word: (P, K) ≤ 0.

    In squared distances; ‖f‖² and the mean of the words are left out, since they cancel.

    >>> words = shift_words(torch.tensor([[0., 0.], [3., 4.]]))
    >>> excess_distance(torch.tensor([[1., 0.]]), words)  # 1 and 20
    tensor([[  0., -19.]])
    """
    scores = torch.addmm(words.square, vectors - words.centre, words.shifted.T, beta=-1, alpha=2)
    return scores.sub_(scores.amax(1, keepdim=True))


def log_assignment(vectors: Tensor, words: Words, tau: float | Tensor) -> Tensor:
    r"""Return ln p_T (P, K) of vectors (P, C): ``log_softmax(−‖v_k − f‖² / tau)``.

    >>> words = shift_words(torch.tensor([[0., 0.], [3., 4.]]))
    >>> log_assignment(torch.tensor([[1., 0.]]), words, 19.).softmax(1)  # odds e : 1
    tensor([[0.7311, 0.2689]])
    """
    scores = excess_distance(vectors, words).div_(tau)
    # A tiny tau takes far words to -Inf; as targets they must give 0 · finite.
    return scores.clamp_(min=torch.finfo(scores.dtype).min).log_softmax(1)


class Vocabulary(FittedPart):
    r"""Words (K, C) fitted once to a teacher's features and frozen.

    A position's p_T is its soft assignment to them.

    Paper: Jain et al., QuEST: Quantized Embedding Space for Transferring Knowledge, ECCV 2020,
    arXiv 1912.01540, eq. 2 and 3.

    .. math:: p_T = \mathrm{softmax}_k(-\lVert v_k - f \rVert^2 / \tau)

    The temperature is in squared-feature units: a layer whose features are ten times as large needs
    a hundredfold tau. ``tau='auto'`` chooses it when the words are fitted, such that the mean
    assignment perplexity exp(mean H(p_T)) is ``target_perplexity``. The authors' code multiplies by
    a temperature t = 1/tau.

    The words are NaN until they are fitted (:meth:`fit`), loaded (:meth:`load`, a state dict) or
    written by hand (``vocabulary.words.copy_(…)``).

    Args:
        num_words: K.
        channels: C, the teacher's.
        tau: Temperature, or 'auto'. A number is the config's and not in the state dict; one found
            by 'auto' is.
        target_perplexity: How many words share a position's assignment, on average, under
            ``tau='auto'``.

    Raises:
        ValueError: Fewer than two words, a tau that is no positive number, an unreachable
            perplexity.

    Examples:
        >>> vocabulary = Vocabulary(2, 1, tau=1.)
        >>> _ = vocabulary.words.copy_(torch.tensor([[0.], [1.]]))
        >>> vocabulary.assign(torch.tensor([[0.5], [1.0]]))
        tensor([[0.5000, 0.5000],
                [0.2689, 0.7311]])
    """

    noun = 'vocabulary'
    origin = ORIGIN
    anew = 'mmkd fit-vocabulary, or VocabularyHook without vocabulary=, load_from or resume'
    words: Tensor
    tau: float | Tensor

    def __init__(
        self, num_words: int, channels: int, tau: float | str = 0.2, target_perplexity: float = 4.0
    ) -> None:
        check_vocabulary(num_words, tau, target_perplexity)
        found = dict(tau=torch.tensor(math.nan)) if tau == 'auto' else {}
        super().__init__(words=torch.full((num_words, channels), math.nan), **found)
        self.target_perplexity = target_perplexity
        if tau != 'auto':
            self.tau = float(tau)

    def refuse_damaged(self) -> None:
        """Refuse words that cannot serve.

        Raises:
            ValueError: NaN or Inf among the words, a tau that is not above 0.
        """
        check_fitted(self.words, torch.as_tensor(self.tau), self.fingerprint, 'the vocabulary')

    def _refuse_damaged_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        own = dict(words=self.words, tau=torch.as_tensor(self.tau), fingerprint=self.fingerprint)
        found = {name: state_dict.get(prefix + name, value) for name, value in own.items()}
        if any(bool(found[name].isnan().all()) for name in ('words', 'tau')):
            found.update(words=torch.ones(2, 1), tau=torch.ones(()))
        check_fitted(**found, where=f'the vocabulary {prefix.rstrip(".")!r} of this checkpoint')

    def assign(self, vectors: Tensor) -> Tensor:
        """Return p_T (P, K) of vectors (P, C)."""
        return log_assignment(vectors, shift_words(self.words), self.tau).exp()

    @torch.no_grad()
    def fit(self, vectors: Tensor, seed: int = 0) -> dict[str, float]:
        """Find the words by mini-batch k-means, and tau where it is 'auto'.

        Deterministic for a seed and a number of threads; no other random numbers are drawn.

        Args:
            vectors: Features (P, C), on any device.
            seed: Of the k-means.

        Returns:
            What :meth:`describe` says of the vectors.

        Raises:
            ValueError: Fewer (different) vectors than words, other channels, NaN or Inf, or no tau
                gives the target perplexity.
        """
        from sklearn.cluster import MiniBatchKMeans  # slow to import, and needed once

        vectors = vectors.float()
        _check_vectors(vectors, self.words)
        num_words = len(self.words)
        means = MiniBatchKMeans(num_words, batch_size=_BATCH, n_init=1, random_state=seed)
        means.fit(vectors.cpu().numpy())
        self.words.copy_(torch.from_numpy(means.cluster_centers_))
        if isinstance(self.tau, Tensor):
            self.tau.fill_(self._calibrate(vectors, seed))
        return self.describe(vectors)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw words that belong to no teacher, to measure what they cost; tau, if 'auto', is 1.

        Args:
            generator: Of the words, on the CPU.
        """
        self.words.copy_(torch.randn(self.words.shape, generator=generator))
        if isinstance(self.tau, Tensor):
            self.tau.fill_(1.0)

    @torch.no_grad()
    def describe(self, vectors: Tensor) -> dict[str, float]:
        """Return how the words serve vectors (P, C).

        Returns:
            ``vectors``: their number; ``inertia``: mean squared distance to the nearest word;
            ``words_used``: the perplexity exp(H) of the words' shares; ``tau``; ``confidence``:
            mean max p_T; ``assignment``: the mean assignment perplexity exp(mean H(p_T)).
        """
        counts = torch.zeros(len(self.words), dtype=torch.float64)
        inertia = confidence = entropy = 0.0
        words = shift_words(self.words)
        for chunk in self._chunks(vectors):
            log_p = log_assignment(chunk, words, self.tau)
            best, word = log_p.max(1)
            counts += word.bincount(minlength=len(counts)).cpu()
            confidence += best.exp().sum().item()
            entropy += torch.special.entr(log_p.exp()).sum().item()
            inertia += (chunk - self.words[word]).square().sum().item()
        number = len(vectors)
        return dict(
            vectors=number,
            inertia=inertia / number,
            words_used=perplexity(counts).item(),
            tau=float(self.tau),
            confidence=confidence / number,
            assignment=math.exp(entropy / number),
        )

    def load(self, path: str | Path) -> None:
        """Read words, fingerprint and, under ``tau='auto'``, tau from a file.

        ``mmkd fit-vocabulary`` writes such files.

        Raises:
            ValueError: The file holds other words, or none; or its words, tau or fingerprint cannot
                be those of a fitted vocabulary.
        """
        state = load_state_dict_file(path)
        _check_file(path, state, self.words)
        self.words.copy_(state['words'])
        self.fingerprint.copy_(state['fingerprint'])
        if isinstance(self.tau, Tensor):
            self.tau.copy_(state['tau'])

    def _chunks(self, vectors: Tensor) -> Iterator[Tensor]:
        for chunk in vectors.split(_CHUNK):
            yield chunk.to(self.words)

    def _calibrate(self, vectors: Tensor, seed: int) -> float:
        """Return the tau of the target's mean assignment perplexity, which grows with tau."""
        from scipy.optimize import brentq

        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(vectors), generator=generator)[:_CALIBRATION]
        scores = excess_distance(
            vectors[order.to(vectors.device)].to(self.words), shift_words(self.words)
        )
        unit = -scores.mean().item()

        def excess(log_tau: float) -> float:
            p = (scores / math.exp(log_tau)).softmax(1)
            return torch.special.entr(p).sum(1).mean().item() - math.log(self.target_perplexity)

        low, high = (math.log(unit) + step for step in (-30.0, 30.0)) if unit > 0 else (0.0, 0.0)
        if not (unit > 0 and excess(low) < 0 < excess(high)):
            raise ValueError(
                f"tau='auto' finds no tau of assignment perplexity {self.target_perplexity}: too "
                'many words are equal, since the features hold too few different vectors. Mend: '
                'fewer words, a tap whose features vary, or a tau of your own'
            )
        return math.exp(brentq(excess, low, high, xtol=1e-6))


def _check_file(path: str | Path, state: dict[str, Any], words: Tensor) -> None:
    """Refuse a file that holds no words for these."""
    if set(state) != {'words', 'tau', 'fingerprint'}:
        raise ValueError(
            f'vocabulary={str(path)!r} is no vocabulary: it holds {sorted(state)[:5]}. Mend: '
            'write one by mmkd fit-vocabulary'
        )
    check_fitted(**state, where=f'vocabulary={str(path)!r}')
    if state['words'].shape != words.shape:
        raise ValueError(
            f'vocabulary={str(path)!r} holds {state["words"].shape[0]} words of '
            f'{state["words"].shape[1]} channels, but the loss has '
            f'num_words={words.shape[0]} and a teacher of {words.shape[1]} channels. '
            f'Mend: num_words={state["words"].shape[0]}, or fit one for this teacher: '
            'mmkd fit-vocabulary'
        )


def _check_vectors(vectors: Tensor, words: Tensor) -> None:
    """Refuse vectors that words cannot be fitted to."""
    num_words, channels = words.shape
    if vectors.dim() != 2 or vectors.shape[1] != channels:
        raise ValueError(
            f'a vocabulary of {channels} channels needs vectors (P, {channels}), got '
            f'{tuple(vectors.shape)}'
        )
    if len(vectors) < num_words:
        raise ValueError(
            f'{len(vectors)} vectors are too few for {num_words} words. Mend: '
            f'num_words={max(2, len(vectors) // 10)} or less, or more vectors (images=None, a '
            'larger max_vectors)'
        )
    if not vectors.isfinite().all():
        raise ValueError(
            "the teacher's features hold NaN or Inf, so no words can be fitted. Mend: check "
            "its checkpoint and inputs, or precision='bf16' in place of 'fp16'"
        )
    distinct = _count_distinct(vectors, num_words)
    if distinct < num_words:
        raise ValueError(
            f'the {len(vectors)} vectors hold {distinct} different ones, too few for '
            f'{num_words} words. Mend: num_words={max(2, distinct // 10)} or less, or a tap '
            'whose features vary'
        )


def _count_distinct(vectors: Tensor, enough: int) -> int:
    """Return how many different vectors there are, or of the first ones if they are enough."""
    few = len(torch.unique(vectors[: 4 * enough], dim=0))
    return few if few >= enough or len(vectors) <= 4 * enough else len(torch.unique(vectors, dim=0))


def check_vocabulary(num_words: int, tau: float | str, target_perplexity: float) -> None:
    """Refuse what no vocabulary can be.

    Raises:
        ValueError: Fewer than two words, a tau that is no positive number, an unreachable
            perplexity.
    """
    check_count('num_words', num_words, 2)  # with one word every assignment is 1
    if isinstance(tau, str) and tau != 'auto':
        raise ValueError(f"tau must be a finite number above 0 or 'auto', got {tau!r}")
    if not isinstance(tau, str):
        check_positive('tau', tau)
    elif not 1 < target_perplexity < num_words:
        raise ValueError(
            f'target_perplexity must lie between 1 (one word) and num_words={num_words} (all '
            f"alike) for tau='auto', got {target_perplexity!r}"
        )


def check_fitted(words: Tensor, tau: Tensor, fingerprint: Tensor, where: str) -> None:
    """Refuse what no fitted vocabulary holds, wherever it came from.

    Args:
        words: Floating (K, C), all finite.
        tau: Floating (), finite and above 0.
        fingerprint: uint8, a digest for each of ``ORIGIN``.
        where: How the error calls what holds them.

    Raises:
        ValueError: Names the part, and what it is instead.

    >>> digests = torch.zeros(3, 32, dtype=torch.uint8)
    >>> check_fitted(torch.zeros(2, 3), torch.tensor(.2), digests, 'it')
    """
    digests = (len(ORIGIN), _DIGEST)
    for name, value, right, what in (
        ('words', words, words.dim() == 2 and words.is_floating_point(), 'floating-point (K, C)'),
        ('tau', tau, tau.dim() == 0 and tau.is_floating_point(), 'a floating-point number ()'),
        (
            'fingerprint',
            fingerprint,
            (fingerprint.dtype, tuple(fingerprint.shape)) == (torch.uint8, digests),
            f'torch.uint8 {digests}',
        ),
    ):
        if not right:
            raise ValueError(
                f'{where}: {name} must be {what}, got {value.dtype} {tuple(value.shape)}. {_ANEW}'
            )
    bad = int((~words.isfinite().all(1)).sum())
    if bad:
        raise ValueError(f'{where}: {bad} of its {len(words)} words hold NaN or Inf. {_ANEW}')
    if not (tau.isfinite() and tau > 0):
        raise ValueError(f'{where}: tau must be a finite number above 0, got {float(tau)}. {_ANEW}')


def perplexity(counts: Tensor) -> Tensor:
    """Return exp(H) of shares: how many words are in use.

    >>> perplexity(torch.tensor([5., 5., 0.]))
    tensor(2.)
    """
    return torch.special.entr(counts / counts.sum().clamp(min=1)).sum().exp()
