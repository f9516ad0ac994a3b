# The same student, data, schedule and seed, taught by the teacher: channel-wise distillation, which
# is best on the validation scenes (docs/results.md).
_base_ = './student.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher.py', checkpoint='work_dirs/demo/teacher/iter_1500.pth'
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(
        channel=dict(loss=dict(type='ChannelWiseKLLoss', tau=4.0), on='logits', weight=3.0)
    ),
)
