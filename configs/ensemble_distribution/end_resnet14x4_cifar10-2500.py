# EnD, the baseline: the mean of four members of the student's own architecture. No labels are read, as in the paper,
# so the other 20,000 images, which the members never saw, serve as well.
_base_ = './member_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=member,
    teachers={f't{n}': dict(**member, checkpoint=f'{folder}{n}/iter_1170.pth', precision='bf16') for n in range(4)},
    taps=dict(logits='head.fc'),
    objectives=dict(end=dict(
        loss=dict(type='EnsembleKLLoss'), reads=dict(student='student.logits', teachers='t*.logits'))),
    task_weight=0.)
train_dataloader = dict(dataset=dict(images_per_class=None))
