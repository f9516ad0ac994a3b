# Cityscapes, 512×1024 crops, batch 8 on one device (--auto-scale-lr for others).
_base_ = 'mmseg::_base_/datasets/cityscapes.py'
train_dataloader = dict(batch_size=8, num_workers=4)
auto_scale_lr = dict(enable=False, base_batch_size=8)
