# Fickle Teacher in the paper's setting: 350 passes, 200 for all else.
_base_ = './baseline_wrn-16-2_cifar10.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(cfg='{{ fileDirname }}/teacher_wrn-40-2-dropout_cifar10.py',
                 checkpoint='work_dirs/teacher_wrn-40-2-dropout_cifar10/iter_78200.pth'),
    taps=dict(logits='head.fc'),
    objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits', weight=0.9)),
    task_weight=0.1,
    noise=[dict(type='TeacherDropout')])
passes = 391
param_scheduler = [
    dict(type='MultiStepLR', milestones=[105 * passes, 210 * passes, 280 * passes], gamma=0.2, by_epoch=False)]
train_cfg = dict(max_iters=350 * passes)
