# The public name of schedules/schedule_40k.py.
_base_ = './schedules/schedule_40k.py'
