"""Tables on the terminal."""

from io import StringIO

from rich.console import Console

from mmkd.utils.tables import print_table


def test_what_a_table_says_is_plain_text() -> None:
    """Paths and taps hold brackets, which rich takes for its own."""
    said = StringIO()
    print_table(
        Console(file=said), 'a[/x].py: [b]mIoU', ['[red]tap'], [['neck[0] of a student'], ['[/]']]
    )
    text = said.getvalue()
    assert all(one in text for one in ('a[/x].py: [b]mIoU', '[red]tap', 'neck[0] of', '[/]'))
