# One member, and the student without distillation: a plain classifier on 250 images a class (30
# passes of batch 64).
_base_ = [
    '../_base_/datasets/cifar10_ood.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=14),
    num_classes=10,
    in_channels=64,
)
train_dataloader = dict(batch_size=64, dataset=dict(images_per_class=250))
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
train_cfg = dict(max_iters=1170)
auto_scale_lr = dict(enable=False, base_batch_size=64)
