"""Test a checkpoint on clean, on corrupted, and on attacked images."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('robustness')
