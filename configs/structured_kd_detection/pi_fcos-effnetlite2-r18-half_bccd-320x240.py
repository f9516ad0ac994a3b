# Pixel-wise (+PI) on the class scores of every FPN level: FCOS has a sigmoid a class, so a binary
# KL.
_base_ = '../pairs/baseline_fcos-r18-half_bccd-320x240.py'
levels = range(5)  # whose mean is taken
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/../pairs/teacher_fcos-effnetlite2_bccd-320x240.py',
        checkpoint='work_dirs/teacher_fcos-effnetlite2_bccd-320x240/iter_1000.pth',
        precision='bf16',
    ),
    taps={f'feat{k}': f'neck:output[{k}]' for k in levels}
    | {f'score{k}': f'bbox_head.conv_cls#{k}' for k in levels},
    objectives={
        f'pixel{k}': dict(loss=dict(type='BinaryKLLoss'), on=f'score{k}', weight=10.0 / 5)
        for k in levels
    },
)
