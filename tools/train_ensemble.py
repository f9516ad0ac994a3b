"""Train the members of an ensemble: one config, several seeds."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('train-ensemble')
