# All of Structured KD (+PI +PA +HO): the holistic term adds a critic with an optimizer of its own.
_base_ = './structured_kd-pi-pa_effnetlite2-pspnet-r18-half_camvid-240x180-600.py'
model = dict(
    objectives=dict(
        holistic=dict(
            loss=dict(
                type='AdversarialLoss', activation='softmax', critic=dict(type='HolisticCritic')
            ),
            on='logits',
            reads=dict(image='batch.inputs'),
            connectors=dict(teacher='auto'),
            weight=0.1,
        )
    )
)
