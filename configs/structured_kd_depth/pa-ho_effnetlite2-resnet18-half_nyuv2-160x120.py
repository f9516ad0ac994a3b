# Depth, pair-wise and holistic (+PA +HO), the paper's choice: the critic sees metres beside the
# image.
_base_ = './pa_effnetlite2-resnet18-half_nyuv2-160x120.py'
model = dict(
    objectives=dict(
        holistic=dict(
            loss=dict(type='AdversarialLoss', critic=dict(type='HolisticCritic')),
            on='depth',
            reads=dict(image='batch.inputs'),
            connectors=dict(teacher='auto'),
            weight=0.01,
        )
    )
)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))),
)
