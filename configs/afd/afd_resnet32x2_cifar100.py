# The paper's pair, two ResNet-32, by its settings as far as they are remembered: no source could
# confirm them.
_base_ = '../pairs/baseline_resnet32_cifar100.py'
peers = [(k, (k - 1) % 2) for k in range(2)]  # k learns from the one before it
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students={f'peer{k}': dict(model={{_base_.model}}) for k, _ in peers},
    taps=dict(logits='head.fc', feat='backbone.layer3'),
    objectives={
        **{
            f'logit{k}': dict(
                loss=dict(type='PixelWiseKLLoss', tau=3.0),
                reads=dict(student=f'peer{k}.logits', teacher=f'peer{j}.logits'),
            )
            for k, j in peers
        },
        **{
            f'map{k}': dict(
                loss=dict(
                    type='AdversarialLoss',
                    mode='lsgan',
                    sigmoid=True,
                    critic=dict(type='FeatureMapCritic'),
                ),
                reads=dict(student=f'peer{k}.feat', teacher=f'peer{j}.feat'),
            )
            for k, j in peers
        },
    },
    phases=[
        dict(
            name='logit', optimizer='student', task=True, objectives=[f'logit{k}' for k, _ in peers]
        ),
        dict(name='feature', optimizer='feature', objectives=[f'map{k}' for k, _ in peers]),
        dict(name='critic', optimizer='critic', critics=[f'map{k}' for k, _ in peers]),
    ],
)
optim_wrapper = dict(
    feature=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-5, weight_decay=0.1)),
    critic=dict(optimizer=dict(_delete_=True, type='Adam', lr=2e-5, weight_decay=0.1)),
)
passes = 391  # iterations of one pass over 50,000 images
late = [dict(type='MultiStepLR', milestones=[150 * passes, 225 * passes], by_epoch=False)]
early = [dict(type='MultiStepLR', milestones=[75 * passes, 150 * passes], by_epoch=False)]
param_scheduler = dict(_delete_=True, student=late, feature=early, critic=early)
val_cfg, test_cfg = dict(type='mmkd.PeerValLoop'), dict(type='mmkd.PeerTestLoop')
default_hooks = dict(checkpoint=dict(save_best=[f'peer{k}/accuracy/top1' for k, _ in peers]))
