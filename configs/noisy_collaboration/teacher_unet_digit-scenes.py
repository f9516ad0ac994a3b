# The demo's teacher with dropout before its classifier: it can be fickle.
_base_ = '../demo/teacher.py'
model = dict(decode_head=dict(dropout_ratio=0.2))
