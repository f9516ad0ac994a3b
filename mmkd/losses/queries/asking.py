"""Asking: what each kind of decoder is asked with, and how it answers."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.checks import shape_of

Queries = dict[str, Tensor]  # argument of the decoder -> (Q, d), or (N, Q, d) where images differ


class Asking:
    """One kind of detectors of mmdet; it holds nothing of any of them.

    Attributes:
        kind: How errors call it.
        reads: What the decoder is given.
        parts: What of it the queries are, where a detector picks them on each image, as a tap of
            its decoder's inputs sees them; (): they are its weights.
    """

    kind: str
    reads: frozenset[str]
    parts: tuple[str, ...] = ()

    @property
    def taps(self) -> dict[str, str]:
        """The tap of each of ``parts``."""
        return {part: f'decoder:input[{part}]' for part in self.parts}

    def fits(self, model: Any) -> bool:
        """Return whether a model is of this kind."""
        ask = getattr(model, 'forward_decoder', None)
        return ask is not None and _arguments(ask) == self.reads

    def alike(self, model: Any) -> dict[str, Any]:
        """Return what two detectors of this kind must agree in, to be asked the same."""
        raise NotImplementedError

    def dtype(self, model: Any) -> torch.dtype:
        """Return the type of a model's numbers; autocast makes a memory coarser, of one side."""
        return model.query_embedding.weight.dtype

    def own(self, model: Any, asked: Sequence[Tensor]) -> Queries:
        """Return a model's own queries.

        Args:
            model: The detector.
            asked: What its decoder was asked with on these images, by ``parts``.
        """
        raise NotImplementedError

    def draw(self, model: Any, number: int) -> Queries:
        """Return random queries, the same ones for all images."""
        raise NotImplementedError

    def answer(
        self, model: Any, queries: Queries, memory: Tensor, levels: list[Tensor], padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (layers, N, Q, C) and boxes (layers, N, Q, 4) of a decoder.

        Args:
            model: The detector.
            queries: What it is asked.
            memory: What its encoder makes of the images (N, Σ h·w, D).
            levels: Positional encodings (N, D, h, w), a level each.
            padding: Bool (N, H, W), True where the batch's images are padded.
        """
        dtype, images = self.dtype(model), len(memory)
        asked = {name: x.to(dtype).expand(images, *x.shape[-2:]) for name, x in queries.items()}
        sizes = [x.shape[2:] for x in levels]
        _check_layout(memory, sizes)
        # as mmdet brings it to the size of a map
        pads = [F.interpolate(padding[:, None].float(), size=size)[:, 0].bool() for size in sizes]
        made = model.forward_decoder(
            memory=memory.to(dtype),
            memory_mask=torch.cat([pad.flatten(1) for pad in pads], 1),
            **self.given(model, asked, levels, pads),
        )
        return model.bbox_head(**made)

    def given(
        self, model: Any, asked: Queries, levels: list[Tensor], pads: list[Tensor]
    ) -> dict[str, Any]:
        """Return what the decoder is given besides the memory and its mask."""
        raise NotImplementedError


class Learned(Asking):
    """Queries are weights, and each is one vector: DETR, Conditional DETR, DAB-DETR."""

    kind = 'learned queries, one level'
    reads = frozenset({'query', 'query_pos', 'memory', 'memory_mask', 'memory_pos'})

    def fits(self, model: Any) -> bool:
        """Refuse patterns, by which each query of DAB-DETR is several."""
        return super().fits(model) and _embeds(model) and not hasattr(model, 'patterns')

    def alike(self, model: Any) -> dict[str, Any]:
        """DAB-DETR's are boxes, so that the widths of its decoders may differ."""
        return {'numbers a query': model.query_embedding.weight.shape[1]}

    def own(self, model: Any, asked: Sequence[Tensor]) -> Queries:
        """Return the weights."""
        return dict(query_pos=model.query_embedding.weight.detach())

    def draw(self, model: Any, number: int) -> Queries:
        """Draw from a normal distribution, as the authors' code does."""
        learned = model.query_embedding.weight
        drawn = torch.randn(number, learned.shape[1], device=learned.device)
        return dict(query_pos=drawn.to(learned.dtype))

    def given(
        self, model: Any, asked: Queries, levels: list[Tensor], pads: list[Tensor]
    ) -> dict[str, Any]:
        """Content begins with 0."""
        query = asked['query_pos']
        return dict(
            asked,
            query=query.new_zeros(*query.shape[:2], model.embed_dims),
            memory_pos=levels[0].to(query.dtype).flatten(2).mT,
        )


class Deformable(Asking):
    """A query is content, position and a reference; several levels: Deformable DETR.

    References are points, of two stages boxes, in parts of the image. Of two stages content and
    position are made of them.
    """

    kind = "Deformable DETR's"
    parts: tuple[str, ...] = ('query', 'query_pos', 'reference_points')
    reads = frozenset(
        {'memory', 'memory_mask', 'spatial_shapes', 'level_start_index', 'valid_ratios', *parts}
    )

    def fits(self, model: Any) -> bool:
        """Refuse heads that read more, as Grounding DINO's a text."""
        answers = {'hidden_states', 'references'}
        return super().fits(model) and _arguments(model.bbox_head.forward) == answers

    def alike(self, model: Any) -> dict[str, Any]:
        """Levels, layers and refinement may differ."""
        return {
            'channels a query': model.embed_dims,
            'coordinates a reference': 4 if model.as_two_stage else 2,
        }

    def dtype(self, model: Any) -> torch.dtype:
        """Of two stages there is no ``query_embedding``."""
        return model.level_embed.dtype

    def own(self, model: Any, asked: Sequence[Tensor]) -> Queries:
        """Return what the decoder was asked; in training DINO's denoising part stands before."""
        return {
            name: x[:, -model.num_queries :].detach()
            for name, x in zip(self.parts, asked, strict=True)
        }

    def draw(self, model: Any, number: int) -> Queries:
        """Draw references evenly from the image, and what an embedding is drawn from beside them.

        Of two stages, content and position are what the model makes of such references.
        """
        like = model.level_embed
        points = self.references(model, number)
        if model.as_two_stage:
            # mmdet takes coordinates before their sigmoid
            encoded = model.get_proposal_pos_embed(points[None].logit(eps=1e-6)).to(like.dtype)
            pair = model.pos_trans_norm(model.pos_trans_fc(encoded))
        else:
            pair = torch.randn(number, 2 * model.embed_dims, device=like.device).to(like.dtype)
        position, content = pair.split(model.embed_dims, -1)
        return dict(query=content, query_pos=position, reference_points=points)

    def references(self, model: Any, number: int) -> Tensor:
        """Return drawn references (Q, 2 or 4)."""
        like = model.level_embed
        drawn = torch.rand(number, 4 if model.as_two_stage else 2, device=like.device)
        return drawn.to(like.dtype)

    def given(
        self, model: Any, asked: Queries, levels: list[Tensor], pads: list[Tensor]
    ) -> dict[str, Any]:
        """Sizes are filled in on the device: a copy of host numbers would wait for it."""
        sides = [side for x in levels for side in x.shape[2:]]
        filled = [levels[0].new_full((), side, dtype=torch.long) for side in sides]
        shapes = torch.stack(filled).view(-1, 2)
        areas = shapes.prod(1)
        return dict(
            asked,
            spatial_shapes=shapes,
            level_start_index=areas.cumsum(0) - areas,
            valid_ratios=torch.stack([model.get_valid_ratio(pad) for pad in pads], 1),
        )


class Dino(Deformable):
    """Content is learned, references are boxes, and position is made of them in each layer."""

    kind = "DINO's"
    parts = ('query', 'reference_points')
    reads = (Deformable.reads - {'query_pos'}) | {'dn_mask', 'kwargs'}

    def fits(self, model: Any) -> bool:
        """Refuse DDQ, which learns no content and chooses among its queries in each layer."""
        return super().fits(model) and _embeds(model)

    def draw(self, model: Any, number: int) -> Queries:
        """Draw boxes evenly, content from a normal distribution."""
        points = self.references(model, number)
        content = torch.randn(number, model.embed_dims, device=points.device)
        return dict(query=content.to(points.dtype), reference_points=points)


KINDS: tuple[Asking, ...] = (Learned(), Deformable(), Dino())


def asking_of(model: Any) -> Asking | None:
    """Return how a model's decoder is asked; None of what is no such detector.

    >>> asking_of(nn.Linear(2, 2)) is None
    True
    """
    return next((kind for kind in KINDS if kind.fits(model)), None)


def _arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _embeds(model: Any) -> bool:
    return isinstance(getattr(model, 'query_embedding', None), nn.Module)


def _check_layout(memory: Tensor, sizes: list[torch.Size]) -> None:
    tokens = sum(size.numel() for size in sizes)
    if tokens != memory.shape[1]:
        raise ValueError(
            f'positional encodings of sizes {[tuple(size) for size in sizes]} are of {tokens} '
            f'places, but the memory is {shape_of(memory)}. Mend: of one member, '
            "taps=dict(memory='encoder', places='positional_encoding#*')"
        )
