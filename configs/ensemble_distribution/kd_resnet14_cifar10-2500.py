# Plain logit distillation of one member, with the usual weights: 0.1 of the labels, 0.9 of the teacher at T = 4.
_base_ = './member_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=member,
    teacher=dict(**member, checkpoint='work_dirs/member_resnet14_cifar10-2500/seed_0/iter_1170.pth', precision='bf16'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits', weight=0.9)),
    task_weight=0.1)
