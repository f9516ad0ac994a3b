# Attention of every layer and its mean state, student layer m under teacher layer 2m.
_base_ = '../pairs/kd_vit-vit_cifar10.py'
path = 'backbone.layers.{}'
# mmcv's attention computes its rows in any case
parts = dict(attention='.attn.attn:output[1]', hidden='')
student = {f'{part}{m}': path.format(m) + tap for m in range(3) for part, tap in parts.items()}
teacher = {
    f'{part}{m}': path.format(2 * m + 1) + tap for m in range(3) for part, tap in parts.items()
}
model = dict(
    student=dict(taps=student),
    teacher=dict(taps=teacher),
    objectives={
        **{
            # 16 rows of 65
            f'attention{m}': dict(loss=dict(type='AttentionKLLoss', rows=16), on=f'attention{m}')
            for m in range(3)
        },
        **{
            f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='mean'), on=f'hidden{m}')
            for m in range(3)
        },
    },
)
