# Fickle Teacher in the paper's setting: 350 passes, 200 for all else.
_base_ = '../pairs/kd_wrn-40-2-wrn-16-2_cifar10.py'
model = dict(
    teacher=dict(
        cfg='{{ fileDirname }}/../pairs/teacher_wrn-40-2-dropout_cifar10.py',
        checkpoint='work_dirs/teacher_wrn-40-2-dropout_cifar10/iter_78200.pth',
    ),
    noise=[dict(type='TeacherDropout')],
)
passes = 391
param_scheduler = [
    dict(
        type='MultiStepLR',
        milestones=[105 * passes, 210 * passes, 280 * passes],
        gamma=0.2,
        by_epoch=False,
    )
]
train_cfg = dict(max_iters=350 * passes)
