# EnD²: the likelihood of the three teachers' predictions under the student's Dirichlet, annealed from T = 10 to 1.
_base_ = './end_effnetlite2x3-pspnet-r18-half_camvid.py'
model = dict(objectives=dict(
    _delete_=True,
    end2=dict(
        loss=dict(type='DirichletNLLLoss', temperature=10.), reads=dict(student='student.logits', teachers='t*.logits'),
        connectors=dict(student='auto'), weight=1.)))
custom_hooks = {{_base_.custom_hooks}} + [dict(type='mmkd.ScheduleHook', schedules=[dict(
    target='end2.loss.temperature', type='anneal', start=10., end=1., begin=433, length=433)])]
