"""Measure the distillation step of a config beside its student and teacher."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('benchmark')
