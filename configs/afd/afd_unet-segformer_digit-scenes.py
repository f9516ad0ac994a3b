# AFD of a CNN and a transformer, each by its own optimizer; a transfer layer brings a peer's maps
# to the other's shape.
_base_ = ['../pairs/baseline_segformer_digit-scenes.py']
cnn = dict(
    cfg='{{ fileDirname }}/../pairs/baseline_unet_digit-scenes.py',
    taps=dict(feat='decode_head.convs'),
)
former = dict(model={{_base_.model}}, taps=dict(feat='decode_head.fusion_conv'))
pairs = [('cnn', 'former'), ('former', 'cnn')]
critic = dict(type='FeatureMapCritic', pooled=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students=dict(cnn=cnn, former=former),
    taps=dict(logits='decode_head.conv_seg'),
    objectives={
        f'{kind}_{k}': dict(
            loss=loss,
            reads=dict(student=f'{k}.{tap}', teacher=f'{j}.{tap}'),
            connectors=dict(student='auto'),
        )
        for k, j in pairs
        for kind, tap, loss in [
            ('logit', 'logits', dict(type='PixelWiseKLLoss', tau=3.0)),
            (
                'map',
                'feat',
                dict(type='AdversarialLoss', mode='lsgan', sigmoid=True, critic=critic),
            ),
        ]
    },
    phases=[
        *(dict(name=k, optimizer=k, task=[k], objectives=[f'logit_{k}']) for k, _ in pairs),
        dict(name='feature', optimizer='feature', objectives=['map_cnn', 'map_former']),
        dict(name='critic', optimizer='critic', critics=['map_cnn', 'map_former']),
    ],
)
adam = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-5))
optim_wrapper = dict(
    _delete_=True,
    constructor='mmkd.PhaseOptimWrapperConstructor',
    feature=adam,
    critic=adam,
    **{
        k: dict(
            type='OptimWrapper',
            params=[f'students.{k}'],
            optimizer=dict(type='AdamW', lr=lr, weight_decay=0.02),
        )
        for k, lr in [('cnn', 0.02), ('former', 0.01)]
    },
)
val_cfg, test_cfg = dict(type='mmkd.PeerValLoop'), dict(type='mmkd.PeerTestLoop')
