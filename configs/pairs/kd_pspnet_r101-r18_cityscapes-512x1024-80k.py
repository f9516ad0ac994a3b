# Plain pixel-wise distillation, PSPNet R101 → R18, 512×1024 crops, 80k iterations, batch 8:
# mmsegmentation's own setting.
_base_ = [
    '../_base_/models/cityscapes_pspnet-r101-r18.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/runtime.py',
]
model = dict(
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0))
)
