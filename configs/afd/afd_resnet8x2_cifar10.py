# AFD: two ResNet-8 teach each other, their logits by KL, their last maps by a discriminator each.
_base_ = './dml_resnet8x2_cifar10.py'
peers = [(k, (k - 1) % 2) for k in range(2)]  # k learns from the one before it
model = dict(
    objectives={
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
    phases=[
        dict(
            name='logit', optimizer='student', task=True, objectives=[f'logit{k}' for k, _ in peers]
        ),
        dict(name='feature', optimizer='feature', objectives=[f'map{k}' for k, _ in peers]),
        dict(name='critic', optimizer='critic', critics=[f'map{k}' for k, _ in peers]),
    ],
)
optim_wrapper = dict(
    feature=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-5)),
    critic=dict(optimizer=dict(_delete_=True, type='Adam', lr=2e-5)),
)
