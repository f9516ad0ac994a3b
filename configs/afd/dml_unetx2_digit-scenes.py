# Segmentation by mutual learning: two U-Nets, logits alone.
_base_ = '../pairs/baseline_unet_digit-scenes.py'
peers = [(k, (k - 1) % 2) for k in range(2)]
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students={f'peer{k}': dict(model={{_base_.model}}) for k, _ in peers},
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.convs'),
    objectives={
        f'logit{k}': dict(
            loss=dict(type='PixelWiseKLLoss', tau=3.0),
            reads=dict(student=f'peer{k}.logits', teacher=f'peer{j}.logits'),
        )
        for k, j in peers
    },
)
val_cfg = dict(type='mmkd.PeerValLoop')
test_cfg = dict(type='mmkd.PeerTestLoop')
