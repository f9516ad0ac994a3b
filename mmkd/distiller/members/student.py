"""Students: models that learn, by their own losses and by objectives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmkd.distiller.members.blame import blaming
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.parts import join_taps, without_labels
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.stand_in import stand_in
from mmkd.distiller.taps.taps import Taps
from mmkd.structures.batch import Batch


class Student(Run):
    """One student: it runs ``mode='loss'``, which computes its own losses.

    A batch that holds images with labels and images without passes in two parts, those with labels
    first: its own losses, and what it draws for them, are those of the labelled images alone,
    whatever lies beside, norms over the batch included. The taps are joined in the batch's order.
    Running statistics of norms take both parts in turn, each by the norm's momentum.

    Args:
        member: Its description.
        model: The model; the Distiller holds it as a module, and sets ``modules`` to where: what
            runs is what stands there, a wrapper that was put in its place as well.
        taps: The taps that objectives read, name -> path.
        prefix: What the log keys of its own losses begin with.
        learns_labels: Whether its own losses count; where they do not, all images pass at once.
    """

    def __init__(
        self,
        member: Member,
        model: nn.Module,
        taps: dict[str, str],
        prefix: str = '',
        learns_labels: bool = True,
    ) -> None:
        super().__init__(member, model, Taps(model, taps, member.where))
        self.modules: Mapping[str, nn.Module] = {member.name: model}
        self.prefix, self.learns_labels = prefix, learns_labels
        last = member.options.get('channels_last')
        self.layout = torch.channels_last if last else torch.preserve_format
        if last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def observe(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run under its noises, in one part or two; return tap -> tensor, and its own losses."""
        own, others = batch.labelled_at, batch.unlabelled_at
        if not own:
            seen, losses = super().observe(batch)
            return seen, without_labels(losses, self.modules[self.name])
        if not others or not self.learns_labels:
            return super().observe(batch)
        seen, losses = super().observe(batch.part(own))
        beside, _ = super().observe(batch.part(others))
        return join_taps(self.where, (seen, own), (beside, others)), losses

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once without noise; return tap name -> tensor, and its own losses by log key."""
        x = batch.inputs.to(memory_format=self.layout)
        model = self.modules[self.name]
        with blaming(self.where, model, 'loss', x), self.taps.recording() as seen:
            losses = model(x, batch.data_samples, mode='loss')
        # under 'loss' the total of a step is logged
        alone = self.prefix or f'{self.name}.'
        own = {
            f'{alone if key == "loss" else self.prefix}{key}': value
            for key, value in losses.items()
        }
        return self.taps.read(seen), own

    def probe(self, batch: Batch) -> dict[str, Any]:
        """Run a stand-in once, nothing of the student is touched; return tap name -> tensor.

        Taps of auxiliary heads fire in ``mode='loss'`` alone.
        """
        model = stand_in(self.model, self.where, torch.Generator().manual_seed(0))
        taps = Taps(model, {tap: path.text for tap, path in self.taps.paths.items()}, self.where)
        mode = 'loss' if batch.data_samples else 'tensor'
        with blaming(self.where, model, mode, batch.inputs), taps.recording() as seen:
            model(batch.inputs, batch.data_samples, mode=mode)
        return taps.read(seen)
