# All of Structured KD (+PI +PA +HO): the critic sees the finest level's class probabilities beside
# the image.
_base_ = './pi-pa_fcos-effnetlite2-r18-half_bccd-320x240.py'
model = dict(
    objectives=dict(
        holistic=dict(
            loss=dict(
                type='AdversarialLoss',
                activation='sigmoid',
                critic=dict(type='HolisticCritic', size=(24, 32)),
            ),
            on='score0',
            reads=dict(image='batch.inputs'),
            weight=0.1,
        )
    )
)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))),
)
