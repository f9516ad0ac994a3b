"""How many vectors a fit takes, and how they are spread over the images."""

MAX_VECTORS = 200_000


def spread(total: int, parts: int, index: int) -> int:
    """Return how much one of so many parts gets of a total that is spread evenly.

    >>> [spread(10, 4, index) for index in range(4)]
    [2, 3, 2, 3]
    """
    return (index + 1) * total // parts - index * total // parts
