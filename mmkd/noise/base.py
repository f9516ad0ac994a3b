"""What a noise of training is, and the noises of each member of a Distiller."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmkd.registry import build_part
from mmkd.structures.batch import Batch
from mmkd.utils.checks import nearest

SHARED = 'batch'  # the role of noises on what every member sees, and where they stand
# what the methods of a noise were called until 0.1; an override of one would never be called
RENAMED = dict(see='on_batch', awake='around_forward', hear='on_taps', prove='check')


@dataclass(frozen=True)
class Host:
    """A member that a noise may act on.

    Args:
        role: ``'student'`` or ``'teacher'``.
        where: How errors call it.
        model: The model.
        taps: Names of its taps that objectives read.
        preprocessor: The data preprocessor that makes the batches.
        live: Whether it is run; what was stored of it is read.
    """

    role: str
    where: str
    model: nn.Module
    taps: Sequence[str]
    preprocessor: nn.Module
    live: bool = True


class Noise:
    """A noise of training; it acts wherever the Distiller runs ``mode='loss'``, and nowhere else.

    A noise overrides one of :meth:`on_batch`, :meth:`around_forward` and :meth:`on_taps`. It draws
    from torch's global generators, so that ExactResumeHook, which seeds every train step, makes it
    a function of (seed, rank, iteration). One of the role ``'batch'`` acts once a step, by its
    :meth:`on_batch`, and every member sees the same.

    Args:
        members: Names of the members it acts on; None takes all of its ``role``.

    Raises:
        TypeError: ``members`` is no list of names; a subclass overrides a method by its old name.
    """

    role = 'student'
    on_labels = False  # whether it acts on labels, which the students' own losses read
    spoils_labels = False  # whether the labels do not fit the images after it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse methods by their old names, which nothing would call."""
        super().__init_subclass__(**kwargs)
        for old, new in RENAMED.items():
            if old in vars(cls):
                raise TypeError(
                    f'{cls.__name__}.{old} is called {new} since mmkd 0.2. Mend: rename it'
                )

    def __init__(self, members: Sequence[str] | None = None) -> None:
        if members is not None and (isinstance(members, str) or not members):
            raise TypeError(
                f'members of {type(self).__name__} must be a list of names such as '
                f"['{self.role}'], or None for every {self.role}, got {members!r}"
            )
        self.members = members

    def choose(self, hosts: Mapping[str, Host]) -> list[str]:
        """Return the names of the members that this noise acts on.

        Raises:
            KeyError: A name that no member has, with the nearest match.
            ValueError: A member of the other role; there is no member of this role.
        """
        kind = type(self).__name__
        if self.role == SHARED:
            if self.members is not None:
                raise ValueError(
                    f'noise {kind} acts on the batch, which every member sees: it takes no '
                    f'members, got {list(self.members)}. Mend: leave members out'
                )
            return []
        mine = [name for name, host in hosts.items() if host.role == self.role]
        for name in self.members or ():
            if name not in hosts:
                raise KeyError(
                    f'noise {kind} names no member: {name!r}{nearest(name, mine)} ({self.role}s: '
                    f'{mine})'
                )
            if name not in mine:
                raise ValueError(
                    f'noise {kind} acts on a {self.role}, but {name!r} is a {hosts[name].role} '
                    f'({self.role}s: {mine})'
                )
        if not mine:
            raise ValueError(f'noise {kind} acts on a {self.role}, but there is none')
        return list(self.members or mine)

    def bind(self, host: Host) -> None:
        """Take from a member what the noise needs to know, or refuse it."""

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch as the member sees it; the batch itself stays as it is."""
        return batch

    def around_forward(self, model: nn.Module) -> AbstractContextManager:
        """Return a context in which the member runs."""
        return nullcontext()

    def on_taps(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Return what the member's taps saw as objectives read it."""
        return seen

    def check(self, model: nn.Module, watch: Callable[[], dict[str, Any]], where: str) -> None:
        """Refuse a member on which this noise would change nothing.

        Args:
            model: The member's model.
            watch: Runs it once on generated images and returns tap -> tensor.
            where: How errors call it.
        """


class Noises:
    """The noises of one member, in the order of the config.

    >>> Noises().on_taps(dict(logits=1))
    {'logits': 1}
    """

    def __init__(self, noises: Sequence[Noise] = ()) -> None:
        self.each = list(noises)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.each)

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch as this member sees it."""
        for noise in self.each:
            batch = noise.on_batch(batch)
        return batch

    def around_forward(self, model: nn.Module) -> ExitStack:
        """Return the context in which this member runs."""
        with ExitStack() as stack:
            for noise in self.each:
                stack.enter_context(noise.around_forward(model))
            return stack.pop_all()

    def on_taps(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Return what this member's taps saw as objectives read it."""
        for noise in self.each:
            seen = noise.on_taps(seen)
        return seen

    def check(self, model: nn.Module, watch: Callable[[], dict[str, Any]], where: str) -> None:
        """Refuse noises that would change nothing."""
        for noise in self.each:
            noise.check(model, watch, where)


def build_noises(configs: Sequence[Any] | None, hosts: Mapping[str, Host]) -> dict[str, Noises]:
    """Return the noises of each member, and under ``SHARED`` those on what every member sees.

    Args:
        configs: ``dict(type='GaussianInput', …)`` or noises.
        hosts: Name -> member.

    Raises:
        TypeError: No list of noises; an argument that a noise does not take, with its nearest
            match.
        KeyError: An unknown noise or member, with the nearest match.
        ValueError: A noise that does not suit a member.
    """
    if isinstance(configs, dict | str):
        raise TypeError(
            "noise must be a list of noises, such as [dict(type='GaussianInput', std=0.1)], got "
            f'{configs!r}'
        )
    found = {name: Noises() for name in (*hosts, SHARED)}
    for i, config in enumerate(configs or ()):
        noise = config if isinstance(config, Noise) else build_part(config, f'noise[{i}]')
        if not isinstance(noise, Noise):
            raise TypeError(f'noise[{i}] is a {type(noise).__name__}, which is no noise')
        for name in noise.choose(hosts):
            if not hosts[name].live:
                refuse_stored(noise, hosts[name].where)
            noise.bind(hosts[name])
            found[name].each.append(noise)
        if noise.role == SHARED:
            for host in [host for host in hosts.values() if not host.live]:
                refuse_stored(noise, host.where)
            found[SHARED].each.append(noise)
    return found


def refuse_spoilt_labels(shared: Noises, readers: Sequence[str]) -> None:
    """Refuse noise after which labels do not fit the images, where something reads labels.

    Args:
        shared: The noises on what every member sees.
        readers: Who reads labels, as errors call them.

    Raises:
        ValueError: There is such a noise and such a reader.
    """
    for noise in shared.each:
        if noise.spoils_labels and readers:
            raise ValueError(
                f'{type(noise).__name__} mixes images, whose labels then fit none of them, but '
                f"labels are read by {', '.join(readers)}. Mend: images='unlabelled' of the noise, "
                'which leaves images with labels alone (of a method that mixes them: task_weight '
                'within method=dict(type=…, task_weight=1.)); or task_weight=0 and objectives '
                'that read no labels'
            )


def refuse_label_noise(noises: Mapping[str, Noises]) -> None:
    """Refuse noise on labels where the students' own losses, which alone read them, count nothing.

    Raises:
        ValueError: There is such a noise.
    """
    for own in noises.values():
        for noise in own.each:
            if noise.on_labels:
                raise ValueError(
                    "task_weight=0 leaves out the students' own losses, the only ones that see the "
                    f'labels of {type(noise).__name__}, so it would change nothing. Mend: a '
                    'task_weight above 0'
                )


def refuse_stored(noise: Noise, where: str) -> None:
    """Refuse a noise on what a teacher sees, or within it, of a teacher whose outputs are stored.

    What acts on its taps is drawn in the training, and is allowed.

    Args:
        noise: The noise.
        where: How errors call the teacher.

    Raises:
        ValueError: It acts on the batch or around the forward.
    """
    kind = type(noise)
    changed = [name for name in ('on_batch', 'around_forward') if _overrides(kind, name)]
    if changed:
        what = 'on the images that' if changed[0] == 'on_batch' else 'inside the forward in which'
        raise ValueError(
            f'noise {kind.__name__} acts {what} {where} sees them, and of a stored teacher one '
            'draw would be kept for good. Mend: the live teacher, '
            'teacher=dict(cfg=…, checkpoint=…); or leave the noise out'
        )


def _overrides(kind: type[Noise], name: str) -> bool:
    return getattr(kind, name) is not getattr(Noise, name)
