# EnD, the baseline: the mean of four members; the student goes on from one of them. No labels are read, as in the
# paper, so the other 20,000 images, which the members never saw, serve as well.
_base_ = './member_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(**member, checkpoint=folder + '0/iter_1170.pth'),
    teachers={f't{n}': dict(**member, checkpoint=f'{folder}{n}/iter_1170.pth', precision='bf16') for n in range(4)},
    taps=dict(logits='head.fc'),
    objectives=dict(end=dict(
        loss=dict(type='EnsembleKLLoss'), reads=dict(student='student.logits', teachers='t*.logits'))),
    task_weight=0.)
train_dataloader = dict(dataset=dict(images_per_class=None))
max_iters = 585
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.02)))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
