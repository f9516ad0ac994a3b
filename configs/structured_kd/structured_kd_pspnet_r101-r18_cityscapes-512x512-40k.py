# All of Structured KD (+PI +PA +HO): PSPNet R101 → R18, 512×512 crops, 40k iterations, batch 8: the
# paper's setting.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x512-40k.py'
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
