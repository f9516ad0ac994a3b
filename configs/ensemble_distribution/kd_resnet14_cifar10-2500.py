# Plain logit distillation of one member at T = 4, on all 22,500 images without their labels, as the ensemble's.
_base_ = './member_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=member,
    teacher=dict(**member, checkpoint='work_dirs/member_resnet14_cifar10-2500/seed_0/iter_1170.pth', precision='bf16'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits')),
    task_weight=0.)
train_dataloader = dict(dataset=dict(images_per_class=None))
