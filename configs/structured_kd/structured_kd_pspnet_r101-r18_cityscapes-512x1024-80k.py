# All of Structured KD (+PI +PA +HO): PSPNet R101 → R18, 512×1024 crops, 80k iterations, batch 8.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
model = dict(
    objectives=dict(
        pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=10.0),
        holistic=dict(
            loss=dict(
                type='AdversarialLoss', activation='softmax', critic=dict(type='HolisticCritic')
            ),
            on='logits',
            reads=dict(image='batch.inputs'),
            weight=0.1,
        ),
    )
)
