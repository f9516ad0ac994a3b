# All matched layers at once (ID-all): attention and [CLS] of student layer m under those of teacher layer 2m.
_base_ = './soft_minilm-minilm3_sst2.py'
layer = 'model.bert.encoder.layer.{}'
parts = dict(q='.attention.self:query', k='.attention.self:key', hidden='')  # by head, before dropout, any kernel
matched = {'student': [0, 1, 2], 'teacher': [1, 3, 5]}
taps = {member: {f'{part}{m}': layer.format(at) + path for m, at in enumerate(layers) for part, path in parts.items()}
        for member, layers in matched.items()}
model = dict(
    student=dict(taps=taps['student']), teacher=dict(taps=taps['teacher']),
    objectives={
        **{f'attention{m}': dict(loss=dict(type='AttentionKLLoss'), reads=dict(
            student=f'student.q{m}', student_key=f'student.k{m}', teacher=f'teacher.q{m}', teacher_key=f'teacher.k{m}',
            mask='batch.tokens', key_mask='batch.tokens')) for m in range(3)},
        **{f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='first'), on=f'hidden{m}') for m in range(3)}})
