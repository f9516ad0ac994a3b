# AFD in a cycle: each of three ResNet-8 learns from the one before it; as many discriminators as
# peers.
_base_ = './dml_resnet8x3_cifar10.py'
peers = [(k, (k - 1) % 3) for k in range(3)]  # k learns from the one before it
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
