"""Collect runs into a table: in Markdown, as a page for a browser, as a picture."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('report')
