# Proxy-Dirichlet: the student's Dirichlet is drawn to one whose precision comes from the teachers'
# disagreement.
_base_ = './end_effnetlite2x3-pspnet-r18-half_camvid-240x180.py'
model = dict(
    objectives=dict(
        _delete_=True,
        proxy=dict(
            loss=dict(type='ProxyDirichletLoss'),
            reads=dict(student='student.logits', teachers='t*.logits'),
            connectors=dict(student='auto'),
            weight=10.0,
        ),
    )
)
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='dirichlet', offset=1.0),
]
default_hooks = dict(uncertainty=dict(type='mmkd.UncertaintyHook', offset=1.0))
