# KSANC for segmentation: a critic of drawn labelled pixels, the decoder's stages, labels; weights
# by validation, seed 0.
_base_ = '../pairs/kd_unet_digit-scenes.py'
stages = [f'stage{n}' for n in (1, 2, 3)]
model = dict(
    taps=dict(
        _delete_=True,
        logits='decode_head.conv_seg',
        pooled='decode_head.convs',
        stage1='backbone:output[0]',
        stage2='backbone:output[1]',
        stage3='backbone:output[2]',
    ),
    objectives=dict(
        _delete_=True,
        logit=dict(
            loss=dict(type='LogitMSELoss'),
            on='logits',
            reads=dict(mask='batch.valid'),
            weight=0.003,
        ),
        squeezed=dict(
            loss=dict(type='SqueezedKnowledgeLoss', num_classes=11, loss_weight=0.0005),
            reads=dict(
                student=[f'student.{s}' for s in stages],
                teacher=[f'teacher.{s}' for s in stages],
                student_global='student.pooled',
                teacher_global='teacher.pooled',
                labels='batch.labels',
            ),
        ),
        adversarial=dict(
            loss=dict(
                type='AdversarialLoss',
                mode='bce',
                critic=dict(type='CategoryCritic', channels=(16, 16)),
                l1=1e-5,
                l2=1e-4,
                adversarial_sample=0.1,
                positions=512,
            ),
            on='logits',
            reads=dict(labels='batch.labels', mask='batch.valid'),
            weight=0.01,
        ),
    ),
)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3)),
)
