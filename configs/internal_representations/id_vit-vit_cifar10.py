# Attention of every layer and its mean state, student layer m under teacher layer 2m.
_base_ = './kd_vit-vit_cifar10.py'
pairs = [(m, 2 * m + 1) for m in range(3)]
parts = dict(attention='.attn.attn:output[1]', hidden='')  # mmcv's attention computes its rows in any case
taps = [{f'{part}{p[0]}': f'backbone.layers.{p[i]}{path}' for p in pairs for part, path in parts.items()} for i in (0, 1)]
model = dict(
    student=dict(taps=taps[0]), teacher=dict(taps=taps[1]),
    objectives={
        **{f'attention{m}': dict(loss=dict(type='AttentionKLLoss', rows=16), on=f'attention{m}')  # of 65
           for m, _ in pairs},
        **{f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='mean'), on=f'hidden{m}') for m, _ in pairs}})
