# EnD, the baseline: the mean of four members, in place of one as in the pair's plain distillation.
_base_ = '../pairs/kd_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model.student.model}}, precision='bf16')
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model.student}},
    teachers={f't{n}': dict(**member, checkpoint=f'{folder}{n}/iter_1170.pth') for n in range(4)},
    taps=dict(logits='head.fc'),
    objectives=dict(
        end=dict(
            loss=dict(type='EnsembleKLLoss'),
            reads=dict(student='student.logits', teachers='t*.logits'),
        )
    ),
    task_weight=0.0,
)
