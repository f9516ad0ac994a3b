# The same in a cycle of three: AFD of three peers without its maps.
_base_ = '../pairs/baseline_resnet8_cifar10.py'
peers = [(k, (k - 1) % 3) for k in range(3)]
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students={f'peer{k}': dict(model={{_base_.model}}) for k, _ in peers},
    taps=dict(logits='head.fc', feat='backbone.layer3'),
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
default_hooks = dict(checkpoint=dict(save_best=[f'peer{k}/accuracy/top1' for k, _ in peers]))
