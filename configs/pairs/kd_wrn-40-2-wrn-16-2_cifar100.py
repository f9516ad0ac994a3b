# Plain logit distillation of a WRN-40-2 into a WRN-16-2: 0.1 of the labels, 0.9 of the teacher at T
# = 4.
_base_ = './baseline_wrn-16-2_cifar100.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_wrn-40-2_cifar100.py',
        checkpoint='work_dirs/teacher_wrn-40-2_cifar100/iter_187440.pth',
    ),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits', weight=0.9)),
    task_weight=0.1,
)
