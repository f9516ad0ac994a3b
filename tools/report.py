"""Collect runs into a Markdown table."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('report')
