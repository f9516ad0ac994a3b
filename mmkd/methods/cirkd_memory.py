"""CIRKD's memory: how like every pixel is to remembered pixels and regions of every class."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

PROJECTOR = dict(type='auto', kind='conv-bn-relu-conv', bias=False)


@METHODS.register_module(name='cirkd-memory')
@needs(tasks=('segmentation',), paper='Yang et al., CVPR 2022, arXiv 2204.06986')
def cirkd_memory(
    pair: Pair,
    weight: float = 0.1,
    pixels: int = 2000,
    regions: int = 2000,
    tau: float = 0.1,
    projector: str | dict | None = None,
    pixel_keys: int = 4096,
    region_keys: int = 1024,
) -> Plan:
    """Every pixel is as like remembered pixels and regions of all classes as it is to the teacher.

    The last features of the student pass the authors' projector, two 1×1 convolutions with a
    normalisation and a ReLU between them. Memories hold the teacher's pixels and regions by the
    labels, and are in every checkpoint: 4 bytes for each channel of each place of each class, 156
    MB for 512 channels and 19 classes, 1.2 GB for the 150 classes of ADE20K, of which pixels=500
    and regions=500 leave 307 MB.

    Default: the authors' weight 0.1 of both terms, means over labelled pixels as here, so that
    nothing is converted; 0.01 in their runs of VOC. Their memory has 20,000 pixels a class, and
    2000 in their run of a SegFormer, which is the default here; keys of a step are 4096 pixels and
    1024 regions in all, as theirs, and the loss's time grows with them. The rest of CIRKD is plain
    distillation of weight 1 and the relations within a mini-batch, of weight 1, which are methods
    of their own.

    Args:
        pair: The pair.
        weight: Of the objective.
        pixels: Places of the memory of pixels, a class; 0: no such term.
        regions: Places of the memory of regions, a class; 0: no such term.
        tau: Temperature.
        projector: Connector of the student.
        pixel_keys: Remembered pixels that a step compares with, of all classes together.
        region_keys: Remembered regions, likewise.
    """
    loss = dict(
        type='MemoryContrastLoss',
        num_classes=pair.num_classes,
        pixels=pixels,
        regions=regions,
        pixel_keys=pixel_keys,
        region_keys=region_keys,
        tau=tau,
    )
    objective = dict(
        loss=loss,
        **pair.on('feat', labels='batch.labels'),
        connectors=dict(student=dict(PROJECTOR) if projector is None else projector),
        weight=weight,
    )
    return Plan(objectives={'cirkd_memory': objective}, taps=dict(feat='auto:feature'))
