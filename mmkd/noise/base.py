"""What a noise of training is, and the noises of one Distiller."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmkd.distiller.members.member import Member
from mmkd.registry import build_part
from mmkd.structures.batch import Batch
from mmkd.utils.checks import nearest


@dataclass(frozen=True)
class Host:
    """A member that a noise may act on.

    Args:
        member: Its description.
        model: The model.
        taps: Names of its taps that objectives read.
        preprocessor: The data preprocessor that makes the batches.
    """

    member: Member
    model: nn.Module
    taps: Sequence[str]
    preprocessor: nn.Module


class Noise:
    """A noise of training; it acts wherever the Distiller runs ``mode='loss'``, and nowhere else.

    A noise overrides one of :meth:`see`, :meth:`awake` and :meth:`hear`. It draws from torch's
    global generators, so that ExactResumeHook, which seeds every train step, makes it a function of
    (seed, rank, iteration).

    Args:
        members: Names of the members it acts on; None takes all of its ``role``.

    Raises:
        TypeError: ``members`` is no list of names.
    """

    role = 'student'
    on_labels = False  # whether it acts on labels, which the students' own losses read

    def __init__(self, members: Sequence[str] | None = None) -> None:
        if members is not None and (isinstance(members, str) or not members):
            raise TypeError(
                f'members of {type(self).__name__} must be a list of names such as '
                f"['{self.role}'], or "
                f'None for every {self.role}, got {members!r}'
            )
        self.members = members

    def choose(self, hosts: Mapping[str, Host]) -> list[str]:
        """Return the names of the members that this noise acts on.

        Raises:
            KeyError: A name that no member has, with the nearest match.
            ValueError: A member of the other role; there is no member of this role.
        """
        mine = [name for name, host in hosts.items() if host.member.role == self.role]
        for name in self.members or ():
            if name not in hosts:
                raise KeyError(
                    f'noise {type(self).__name__} names no member: {name!r}{nearest(name, mine)} '
                    f'({self.role}s: {mine})'
                )
            if name not in mine:
                raise ValueError(
                    f'noise {type(self).__name__} acts on a {self.role}, but {name!r} is a '
                    f'{hosts[name].member.role} ({self.role}s: {mine})'
                )
        if not mine:
            raise ValueError(
                f'noise {type(self).__name__} acts on a {self.role}, but there is none'
            )
        return list(self.members or mine)

    def bind(self, host: Host) -> None:
        """Take from a member what the noise needs to know, or refuse it."""

    def see(self, batch: Batch) -> Batch:
        """Return the batch as the member sees it; the batch itself stays as it is."""
        return batch

    def awake(self, model: nn.Module) -> AbstractContextManager:
        """Return a context in which the member runs."""
        return nullcontext()

    def hear(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Return what the member's taps saw as objectives read it."""
        return seen

    def prove(self, model: nn.Module, observe: Callable[[], dict[str, Any]], where: str) -> None:
        """Refuse a member on which this noise would change nothing; ``observe`` runs it once on generated images."""


class Noises:
    """The noises of a Distiller, by member; several on one member act in the order of the config.

    Args:
        configs: ``dict(type='GaussianInput', …)`` or noises.
        hosts: Name -> member.

    Raises:
        TypeError: No list of noises; an argument that a noise does not take, with its nearest
            match.
        KeyError: An unknown noise or member, with the nearest match.
        ValueError: A noise that does not suit a member.
    """

    def __init__(
        self, configs: Sequence[Any] | None = None, hosts: Mapping[str, Host] | None = None
    ) -> None:
        if isinstance(configs, dict | str):
            raise TypeError(
                f"noise must be a list of noises, such as [dict(type='GaussianInput', std=0.1)], "
                f'got '
                f'{configs!r}'
            )
        self._of: dict[str, list[Noise]] = {}
        for i, config in enumerate(configs or ()):
            noise = config if isinstance(config, Noise) else build_part(config, f'noise[{i}]')
            if not isinstance(noise, Noise):
                raise TypeError(f'noise[{i}] is a {type(noise).__name__}, which is no noise')
            for name in noise.choose(hosts or {}):
                noise.bind((hosts or {})[name])
                self._of.setdefault(name, []).append(noise)

    def refuse_label_noise(self) -> None:
        """Refuse noise on labels where the students' own losses, which alone read them, count nothing.

        Raises:
            ValueError: There is such a noise.
        """
        found = [
            type(noise).__name__
            for noises in self._of.values()
            for noise in noises
            if noise.on_labels
        ]
        if found:
            raise ValueError(
                f"task_weight=0 leaves out the students' own losses, the only ones that see the "
                f'labels of '
                f'{found[0]}, so it would change nothing. Mend: a task_weight above 0'
            )

    def on(self, name: str) -> bool:
        """Return whether any noise acts on this member."""
        return name in self._of

    def prove(
        self, name: str, model: nn.Module, observe: Callable[[], dict[str, Any]], where: str
    ) -> None:
        """Refuse noises that would change nothing."""
        for noise in self._of.get(name, ()):
            noise.prove(model, observe, where)

    def see(self, name: str, batch: Batch) -> Batch:
        """Return the batch as this member sees it."""
        for noise in self._of.get(name, ()):
            batch = noise.see(batch)
        return batch

    def awake(self, name: str, model: nn.Module) -> ExitStack:
        """Return the context in which this member runs."""
        with ExitStack() as stack:
            for noise in self._of.get(name, ()):
                stack.enter_context(noise.awake(model))
            return stack.pop_all()

    def hear(self, name: str, seen: dict[str, Any]) -> dict[str, Any]:
        """Return what this member's taps saw as objectives read it."""
        for noise in self._of.get(name, ()):
            seen = noise.hear(seen)
        return seen


QUIET = Noises()
