# Soft labels alone: what internal representations are compared with.
_base_ = './baseline_vit_cifar10.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_vit_cifar10.py',
        checkpoint='work_dirs/teacher_vit_cifar10/iter_2112.pth',
        precision='bf16',
    ),
    taps=dict(logits='head.fc'),
    objectives=dict(soft=dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits', weight=0.9)),
)
