"""The whole story on built-in data: a teacher, a student, and one that it teaches."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('demo')
