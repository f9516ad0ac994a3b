# The paper's pair, BERT-base → 6 layers, stacked: a pass a level, then three of the labels; its threshold is unknown.
_base_ = './teacher_bert-base_sst2.py'
layer = 'model.bert.encoder.layer.{}'
parts = dict(q='.attention.self:query', k='.attention.self:key', hidden='')
pairs = [(m, 2 * m + 1) for m in range(6)]  # layer m of the student under 2m of the teacher, counted from 1
taps = [{f'{part}{p[0]}': layer.format(p[i]) + path for p in pairs for part, path in parts.items()} for i in (0, 1)]
weights = 'work_dirs/teacher_bert-base_sst2/iter_5685.pth'
model = dict(
    _delete_=True, type='mmkd.Distiller', taps=dict(logits='model.classifier'),
    student=dict(taps=taps[0], model=dict(_base_.model, options=dict(num_hidden_layers=6), layers=[p[1] for p in pairs],
                                          pretrained=weights)),
    teacher=dict(taps=taps[1], cfg='{{ fileDirname }}/teacher_bert-base_sst2.py', checkpoint=weights, precision='bf16'),
    objectives=dict(soft=dict(loss=dict(type='PixelWiseKLLoss'), on='logits'), **{
        f'attention{m}': dict(loss=dict(type='AttentionKLLoss'), reads=dict(
            student=f'student.q{m}', student_key=f'student.k{m}', teacher=f'teacher.q{m}', teacher_key=f'teacher.k{m}',
            mask='batch.tokens', key_mask='batch.tokens')) for m, _ in pairs}, **{
        f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='first'), on=f'hidden{m}') for m, _ in pairs}))
max_iters = 9 * 1895
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
train_cfg = dict(max_iters=max_iters)
custom_hooks = _base_.custom_hooks + [dict(type='mmkd.ScheduleHook', levels=dict(
    type='stacked', levels=[[f'attention{m}', f'cosine{m}'] for m, _ in pairs] + [['soft', 'task']], length=1895))]
