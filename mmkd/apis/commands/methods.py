"""List the methods by name, or tell one and what it makes of a pair.

Example::

    mmkd methods skd student.py teacher.py
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('name', nargs='?', help='a method; all of them are listed without one')
    parser.add_argument('student', nargs='?', help="the student's config")
    parser.add_argument('teacher', nargs='*', help="the teachers' configs; the other peer's")


def main(args: argparse.Namespace) -> int | None:
    """List the methods, or print one and what it makes of a pair."""
    from mmkd.apis.methods import list_methods, tell_method
    from mmkd.utils.tables import make_console

    console = make_console()
    if args.name is None:
        list_methods(console)
    else:
        tell_method(console, args.name, args.student, args.teacher)
    return None
