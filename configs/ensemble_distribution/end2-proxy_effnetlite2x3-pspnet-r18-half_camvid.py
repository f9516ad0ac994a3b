# Proxy-Dirichlet: the student's Dirichlet is drawn to one whose precision comes from the teachers' disagreement.
_base_ = './end_effnetlite2x3-pspnet-r18-half_camvid.py'
model = dict(objectives=dict(
    _delete_=True,
    proxy=dict(
        loss=dict(type='ProxyDirichletLoss'), reads=dict(student='student.logits', teachers='t*.logits'),
        connectors=dict(student='auto'), weight=10.)))
