# KDCL with 100 labelled scenes, the target being the mean of what both peers say.
_base_ = './kdcl_unetx2_digit-scenes-100.py'
model = dict(method=dict(_delete_=True, type='kdcl', kind='mean'))
