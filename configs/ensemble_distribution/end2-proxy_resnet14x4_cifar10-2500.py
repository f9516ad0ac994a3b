# Proxy-Dirichlet: the student's Dirichlet is drawn to one whose precision comes from the members'
# disagreement.
_base_ = './end_resnet14x4_cifar10-2500.py'
model = dict(
    objectives=dict(
        _delete_=True,
        proxy=dict(
            loss=dict(type='ProxyDirichletLoss'),
            reads=dict(student='student.logits', teachers='t*.logits'),
        ),
    )
)
test_evaluator = [
    dict(type='mmkd.Accuracy'),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='dirichlet', offset=1.0),
]
