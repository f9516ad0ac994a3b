# AFD of mmsegmentation's own PSPNet R18 and SegFormer B0, each by its own optimizer; nothing of it
# was trained here.
_base_ = [
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/runtime.py',
]
cnn = dict(
    cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    taps=dict(feat='decode_head.bottleneck'),
)
former = dict(
    cfg='mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    taps=dict(feat='decode_head.fusion_conv'),
)
pairs = [('cnn', 'former'), ('former', 'cnn')]
critic = dict(type='FeatureMapCritic', pooled=False)
model = dict(
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
        k: dict(type='OptimWrapper', params=[f'students.{k}'], optimizer=optimizer)
        for k, optimizer in [
            ('cnn', dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)),
            ('former', dict(type='AdamW', lr=6e-5)),
        ]
    },
)
val_cfg, test_cfg = dict(type='mmkd.PeerValLoop'), dict(type='mmkd.PeerTestLoop')
default_hooks = dict(checkpoint=dict(save_best=['cnn/mIoU', 'former/mIoU']))
