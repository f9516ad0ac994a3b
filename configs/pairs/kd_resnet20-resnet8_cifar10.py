# Plain logit distillation, with the usual weights: 0.1 of the labels, 0.9 of the teacher at T = 4.
_base_ = './baseline_resnet8_cifar10.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_resnet20_cifar10.py',
        checkpoint='work_dirs/teacher_resnet20_cifar10/iter_2112.pth',
        precision='bf16',
    ),
    taps=dict(logits='head.fc', feat='backbone.layer3'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits', weight=0.9)),
    task_weight=0.1,
)
