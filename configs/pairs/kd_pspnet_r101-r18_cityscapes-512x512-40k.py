# Plain pixel-wise distillation, PSPNet R101 → R18, 512×512 crops, 40k iterations, batch 8:
# Structured KD's setting.
_base_ = [
    '../_base_/models/cityscapes_pspnet-r101-r18.py',
    '../_base_/datasets/cityscapes_512x512.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/runtime.py',
]
model = dict(
    student=dict(cfg_options={'model.data_preprocessor.size': (512, 512)}),
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0)),
)
