# Soft Randomization in the paper's setting: 200 passes; its grid of sigma is not known to us.
_base_ = './baseline_wrn-16-2_cifar10.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(cfg='{{ fileDirname }}/teacher_wrn-40-2_cifar10.py',
                 checkpoint='work_dirs/teacher_wrn-40-2_cifar10/iter_78200.pth'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits', weight=0.9)),
    task_weight=0.1,
    noise=[dict(type='GaussianInput', std=0.1)])
