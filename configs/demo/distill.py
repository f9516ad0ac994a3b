# The same student, data, schedule and seed, taught by the teacher: pixel-wise and pair-wise
# Structured KD.
_base_ = './student.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher.py', checkpoint='work_dirs/demo/teacher/iter_1500.pth'
    ),
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.convs'),
    objectives=dict(
        pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0),
        pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=30.0),
    ),
)
