"""Check a config before training by it: members, taps, objectives, data, cost."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('doctor')
