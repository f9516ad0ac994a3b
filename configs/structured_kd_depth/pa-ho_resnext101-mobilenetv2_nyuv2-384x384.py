# The paper's pair, ResNeXt-101 → MobileNetV2: pair-wise and holistic.
_base_ = '../pairs/baseline_mobilenetv2_nyuv2-384x384.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/../pairs/teacher_resnext101_nyuv2-384x384.py',
        precision='bf16',
        checkpoint='work_dirs/teacher_resnext101_nyuv2-384x384/iter_3000.pth',
    ),
    taps=dict(feat='decode_head.convs', depth='decode_head.depth'),
    objectives=dict(
        pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=10.0),
        holistic=dict(
            loss=dict(type='AdversarialLoss', critic=dict(type='HolisticCritic')),
            on='depth',
            reads=dict(image='batch.inputs'),
            connectors=dict(teacher='auto'),
            weight=0.01,
        ),
    ),
)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))),
)
