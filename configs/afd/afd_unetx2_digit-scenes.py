# AFD for segmentation: two U-Nets, a discriminator that scores every place of the last map.
_base_ = './dml_unetx2_digit-scenes.py'
peers = [(k, (k - 1) % 2) for k in range(2)]
critic = dict(type='FeatureMapCritic', pooled=False)
model = dict(
    objectives={
        f'map{k}': dict(
            loss=dict(type='AdversarialLoss', mode='lsgan', sigmoid=True, critic=critic),
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
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    feature=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-5)),
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-5)),
)
