# The last attention of every stage (equal shapes: no adapter), and the mean state of every class in its maps.
_base_ = './kd_segformer_digit-scenes.py'
last = {'student': [1, 1, 1, 1], 'teacher': [1, 1, 3, 1]}  # of a stage
taps = {member: {f'{part}{s}': f'backbone.layers.{s}.1.{at}.attn.attn:{path}' for s, at in enumerate(layers)
                 for part, path in (('q', 'query'), ('k', 'key'))} | {f'map{s}': f'backbone:output[{s}]' for s in range(4)}
        for member, layers in last.items()}
model = dict(
    student=dict(taps=taps['student']), teacher=dict(taps=taps['teacher']),
    objectives={
        **{f'attention{s}': dict(loss=dict(type='AttentionKLLoss', rows=256), reads=dict(
            student=f'student.q{s}', student_key=f'student.k{s}', teacher=f'teacher.q{s}', teacher_key=f'teacher.k{s}'))
           for s in range(4)},
        **{f'cosine{s}': dict(loss=dict(type='HiddenCosineLoss', token='class'), on=f'map{s}',
                              reads=dict(labels='batch.labels'), connectors=dict(student='auto')) for s in range(4)}})
