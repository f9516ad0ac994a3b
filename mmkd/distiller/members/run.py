"""A member at work: what students and teachers have in common."""

from typing import Any

from torch import nn

from mmkd.distiller.members.member import Member
from mmkd.distiller.taps.taps import Taps
from mmkd.noise.base import Host, Noises
from mmkd.structures.batch import Batch


class Run:
    """One member at work: its model, the taps that objectives read, and its noises.

    Args:
        member: Its description.
        model: The model.
        taps: Its taps.
    """

    prefix = ''  # what the log keys of its own losses begin with

    def __init__(self, member: Member, model: nn.Module, taps: Taps) -> None:
        self.member, self.model, self.taps = member, model, taps
        self.noises = Noises()

    @property
    def name(self) -> str:
        """The name that references use."""
        return self.member.name

    @property
    def role(self) -> str:
        """``'student'`` or ``'teacher'``."""
        return self.member.role

    @property
    def where(self) -> str:
        """How errors call it."""
        return self.member.where

    @property
    def ignore_index(self) -> int:
        """The label of a pixel that does not count."""
        return self.member.ignore_index

    def host(self, preprocessor: nn.Module) -> Host:
        """Return what noises ask of it."""
        return Host(self.role, self.where, self.model, list(self.taps.paths), preprocessor)

    def observe(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once under its noises; return tap name -> tensor, and its own losses by log key."""
        with self.noises.around_forward(self.model):
            seen, losses = self.run(self.noises.on_batch(batch))
        return self.noises.on_taps(seen), losses

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once without noise; return tap name -> tensor, and its own losses by log key."""
        raise NotImplementedError

    def probe(self, batch: Batch) -> dict[str, Any]:
        """Run once before training, without a trace; return tap name -> tensor."""
        raise NotImplementedError
