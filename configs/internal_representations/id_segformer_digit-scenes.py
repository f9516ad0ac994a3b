# The last attention of every stage (equal shapes: no adapter), and the mean state of every class in
# its maps.
_base_ = '../pairs/kd_segformer_digit-scenes.py'
parts = dict(q='query', k='key')
layer = 'backbone.layers.{}.1.{}.attn.attn:{}'  # of a stage, its last block
maps = {f'map{s}': f'backbone:output[{s}]' for s in range(4)}
student = {
    f'{part}{s}': layer.format(s, at, path)
    for s, at in enumerate([1, 1, 1, 1])
    for part, path in parts.items()
}
teacher = {
    f'{part}{s}': layer.format(s, at, path)
    for s, at in enumerate([1, 1, 3, 1])
    for part, path in parts.items()
}
model = dict(
    student=dict(taps=student | maps),
    teacher=dict(taps=teacher | maps),
    objectives={
        **{
            f'attention{s}': dict(
                loss=dict(type='AttentionKLLoss', rows=256),
                reads=dict(
                    student=f'student.q{s}',
                    student_key=f'student.k{s}',
                    teacher=f'teacher.q{s}',
                    teacher_key=f'teacher.k{s}',
                ),
            )
            for s in range(4)
        },
        **{
            f'cosine{s}': dict(
                loss=dict(type='HiddenCosineLoss', token='class'),
                on=f'map{s}',
                reads=dict(labels='batch.labels'),
                connectors=dict(student='auto'),
            )
            for s in range(4)
        },
    },
)
