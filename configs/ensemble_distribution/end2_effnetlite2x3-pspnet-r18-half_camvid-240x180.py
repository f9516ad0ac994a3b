# EnD²: the likelihood of the three teachers' predictions under the student's Dirichlet, annealed
# from T = 3 to 1.
_base_ = './end_effnetlite2x3-pspnet-r18-half_camvid-240x180.py'
model = dict(
    objectives=dict(
        _delete_=True,
        end2=dict(
            loss=dict(type='DirichletNLLLoss', temperature=3.0),
            reads=dict(student='student.logits', teachers='t*.logits'),
            connectors=dict(student='auto'),
            weight=0.1,
        ),
    )
)
optim_wrapper = dict(student=dict(clip_grad=dict(max_norm=10.0)))  # as the authors' trainer does
default_hooks = dict(
    schedule=dict(
        type='mmkd.ScheduleHook',
        schedules=[  # from T = 10, as in the paper, so short a run does not return
            dict(
                target='end2.loss.temperature',
                type='anneal',
                start=3.0,
                end=1.0,
                begin=107,
                length=107,
            )
        ],
    ),
    uncertainty=dict(type='mmkd.UncertaintyHook'),
)
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='dirichlet'),
]
