# Plain logit distillation of one member at T = 4: start, rate and length are those of the control.
# No labels are read, as in the paper, so the other 20,000 images, which the members never saw,
# serve as well.
_base_ = './longer_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
load_from = None
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(**member, checkpoint=folder + '0/iter_1170.pth'),
    teacher=dict(**member, checkpoint=folder + '3/iter_1170.pth', precision='bf16'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits')),
    task_weight=0.0,
)
train_dataloader = dict(dataset=dict(images_per_class=None))
