# EnD, the baseline: the mean of three teachers; data, schedule and student of the plain student's
# row.
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180.py'
teacher = dict(cfg='{{ fileDirname }}/../_base_/models/camvid_teacher.py', precision='bf16')
folder = 'data/camvid_teachers/effnet_lite2_deeplabv3plus_seed'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teachers=dict(
        t0=dict(**teacher, checkpoint=folder + '0.pth'),
        t1=dict(**teacher, checkpoint=folder + '1.pth'),
        t2=dict(**teacher, checkpoint=folder + '2.pth'),
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(
        end=dict(
            loss=dict(type='EnsembleKLLoss'),
            reads=dict(student='student.logits', teachers='t*.logits'),
            connectors=dict(student='auto'),
            weight=10.0,
        )
    ),
)
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='softmax'),
]
