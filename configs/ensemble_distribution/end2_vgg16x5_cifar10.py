# The paper's network and schedule: the Dirichlet likelihood, T = 10 for a third of the run, then
# down to 1.
_base_ = '../pairs/member_vgg16_cifar10.py'
member = dict(model={{_base_.model}})
folder = 'work_dirs/member_vgg16_cifar10/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=member,
    # up to 100 in the paper
    teachers={f't{n}': dict(**member, checkpoint=f'{folder}{n}/iter_35190.pth') for n in range(5)},
    taps=dict(logits='head.fc'),
    objectives=dict(
        end2=dict(
            loss=dict(type='DirichletNLLLoss', temperature=10.0, smoothing=1e-4),
            reads=dict(student='student.logits', teachers='t*.logits'),
        )
    ),
    task_weight=0.0,
)
default_hooks = dict(
    schedule=dict(
        type='mmkd.ScheduleHook',
        schedules=[dict(target='end2.loss.temperature', type='anneal', begin=11730, length=11730)],
    )
)
