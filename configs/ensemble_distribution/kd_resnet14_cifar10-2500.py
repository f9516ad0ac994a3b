# Plain logit distillation of one member at T = 4; images, start and schedule are those of the ensemble's rows.
_base_ = './end_resnet14x4_cifar10-2500.py'
member = dict(model={{_base_.model.student.model}})
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(**member, checkpoint=folder + '0/iter_1170.pth'),
    teacher=dict(**member, checkpoint=folder + '3/iter_1170.pth', precision='bf16'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits')),
    task_weight=0.)
