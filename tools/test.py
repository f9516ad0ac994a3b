"""Test a checkpoint by a config; an ensemble by its config alone."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('test')
