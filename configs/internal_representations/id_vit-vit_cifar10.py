# Attention of every layer and its mean state, student layer m under teacher layer 2m.
_base_ = './baseline_vit_cifar10.py'
pairs = [(m, 2 * m + 1) for m in range(3)]
parts = dict(q='.attn.attn:query', k='.attn.attn:key', hidden='')
taps = [{f'{part}{p[0]}': f'backbone.layers.{p[i]}{path}' for p in pairs for part, path in parts.items()} for i in (0, 1)]
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}, taps=taps[0]),
    teacher=dict(cfg='{{ fileDirname }}/teacher_vit_cifar10.py', taps=taps[1],
                 checkpoint='work_dirs/teacher_vit_cifar10/iter_2112.pth'),
    taps=dict(logits='head.fc'),
    objectives={
        'soft': dict(loss=dict(type='PixelWiseKLLoss', tau=4.), on='logits', weight=0.9),
        **{f'attention{m}': dict(loss=dict(type='AttentionKLLoss', rows=8), reads=dict(  # of 65
            student=f'student.q{m}', student_key=f'student.k{m}', teacher=f'teacher.q{m}', teacher_key=f'teacher.k{m}'))
           for m, _ in pairs},
        **{f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='mean'), on=f'hidden{m}') for m, _ in pairs}})
