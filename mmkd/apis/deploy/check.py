"""Whether a written file computes what the model computes."""

from dataclasses import dataclass

from torch import Tensor

LEAST_AGREEMENT = 99.9  # per cent of the labels
LARGEST_SHARE = 1e-3  # of the largest output: ten times what other orders of summation cost
NEAR = 0.01  # depth that differs by less of itself agrees


@dataclass(frozen=True)
class Check:
    """How far a file's outputs are from the model's.

    Args:
        difference: Largest absolute difference of an output.
        largest: Largest absolute output of the model.
        agreement: Per cent of labels that are the same, of depth per cent within 1 %.
        images: How many images were compared.
    """

    difference: float
    largest: float
    agreement: float
    images: int

    @property
    def passed(self) -> bool:
        """Whether the file may be kept: NaN on either side may not."""
        near = self.difference <= LARGEST_SHARE * self.largest
        return self.agreement >= LEAST_AGREEMENT and near

    def __str__(self) -> str:
        images = f'{self.images} images' if self.images > 1 else '1 image'
        return (
            f'largest difference {self.difference:.2g} (outputs up to {self.largest:.3g}), '
            f'{self.agreement:.2f} % agree, on {images}'
        )


def compare(
    output: Tensor, reference: Tensor, labels: tuple[Tensor, Tensor] | None = None
) -> Check:
    """Compare outputs, and the labels that they mean.

    Args:
        output: Of the file, (N, …).
        reference: Of the model.
        labels: Of both; None where the output is depth.

    Raises:
        ValueError: Outputs of other shapes.

    >>> import torch
    >>> compare(torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 2.0]]))
    Check(difference=0.5, largest=2.0, agreement=50.0, images=1)
    """
    if output.shape != reference.shape:
        raise ValueError(
            f'the file gives outputs {tuple(output.shape)}, the model {tuple(reference.shape)}'
        )
    if labels is None:
        same = (output - reference).abs() <= NEAR * reference.abs()
    else:
        same = labels[0] == labels[1]
    return Check(
        (output - reference).abs().max().item(),
        reference.abs().max().item(),
        100 * same.double().mean().item(),
        len(output),
    )
