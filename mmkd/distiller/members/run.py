"""A member at work: what students and teachers have in common."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmkd.distiller.members.member import Member
from mmkd.distiller.taps.taps import Taps
from mmkd.losses.fitted.source import digest_of
from mmkd.noise.base import Host, Noises
from mmkd.structures.batch import Batch


class Run:
    """One member at work: its model, the taps that objectives read, and its noises.

    Args:
        member: Its description.
        model: The model.
        taps: Its taps.
    """

    live = True  # whether there is a network that can be run on any images
    frozen = True  # of a teacher: whether it says the same of an image throughout
    prefix = ''  # what the log keys of its own losses begin with
    modules: Mapping[str, nn.Module]  # of a student: where the Distiller holds it

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

    def host(self, preprocessor: nn.Module) -> Host:
        """Return what noises ask of it."""
        return Host(self.role, self.where, self.model, list(self.taps.paths), preprocessor)

    def digest(self) -> bytes:
        """Return the SHA-256 of its weights."""
        return digest_of(self.model)

    def stand_in(self) -> str:
        """Answer from now on to batches of any images, to measure values and costs.

        Returns:
            What was done for it, in words; '' for nothing.
        """
        return ''

    def observe(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once under its noises; return tap name -> tensor, and its own losses by log key."""
        with self.noises.around_forward(self.model):
            seen, losses = self.run(self.noises.on_batch(batch))
        return self.noises.on_taps(seen), losses

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once without noise; return tap name -> tensor, and its own losses by log key."""
        raise NotImplementedError

    @property
    def heard(self) -> bool:
        """Whether a step needs it: a student learns, of a teacher something is read.

        A teacher under noise runs in any case: what it draws comes before what others draw.
        """
        return self.role == 'student' or bool(self.taps.paths) or bool(self.noises.each)

    def stand_by(self) -> None:
        """Take note of a step in which it is not run."""

    def check_noises(self, batch: Batch) -> None:
        """Refuse noises that would change nothing."""

    def to(self, device: torch.device) -> None:
        """Move what is no module of the Distiller to a device."""

    def broadcast(self) -> None:
        """Give every rank what rank 0 has, of what is no module of the Distiller."""

    def probe(self, batch: Batch) -> dict[str, Any]:
        """Run once before training, without a trace; return tap name -> tensor."""
        raise NotImplementedError


def students_of(runs: Mapping[str, Run]) -> list[Any]:
    """Return the students at work, in their order."""
    return [run for run in runs.values() if run.role == 'student']


def teachers_of(runs: Mapping[str, Run]) -> list[Any]:
    """Return the teachers at work, in their order."""
    return [run for run in runs.values() if run.role == 'teacher']
