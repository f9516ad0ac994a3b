# The public name of schedules/schedule_80k.py.
_base_ = './schedules/schedule_80k.py'
