"""What the benchmark prints: times, memory and ratios of each variant, then all side by side."""

from typing import Any

from rich.console import Console

from mmkd.utils.tables import print_table

CASES = dict(
    student='student step alone (of peers: one after the other)',
    teacher='teacher forward alone',
    noise='noise on what students see, alone',
    noisy_teacher='teacher forward with its noise',
    objectives='objectives alone, forward and backward, without critics',
    critics='critics alone, forward and backward, for the student and for themselves',
    step='distillation step, without critics',
    step_with_critic='distillation step, critics too',
    peer_student="peers' student step: fp32",
    peer_teacher="peers' teacher forward: fp32, mode='loss'",
    mmrazor="mmrazor's step",
)
RATIOS = dict(
    overhead='step / (student + teacher)',
    overhead_with_critic='step with critics / (student + teacher)',
    memory='memory of the step / (student + teacher)',
    memory_with_critic='memory of the step with critics / (student + teacher)',
    objectives='objectives alone / step',
    objectives_with_critic='(objectives + critics) alone / step with critics',
    critics='critics alone / step with critics',
    noise='noise / step',
    peers="step / (peers' student + peers' teacher); the aim on an H100 is 0.5",
    mmrazor="step / mmrazor's step",
)


def print_result(console: Console, name: str, result: dict[str, Any]) -> None:
    """Print times, memory and ratios of one variant."""
    if 'error' in result:
        console.print(f'{name}: {result["error"]}', style='red', markup=False)
        return
    height, width = result['size']
    targets = result['targets']
    print_table(
        console,
        f'{name}: {result["batch_size"]} × {height}×{width}',
        ('what', 'ms', 'peak MiB on top'),
        [
            (CASES[case], f'{1e3 * seconds:.1f}', f'{result["bytes"][case] / 2**20:.0f}')
            for case, seconds in result['seconds'].items()
        ],
    )
    print_table(
        console,
        f'{name}: ratios',
        ('ratio', 'value', 'target', ''),
        [
            (
                RATIOS[key],
                f'{value:.3f}',
                f'≤ {targets[key]:.2f}' if key in targets else '',
                '' if key not in targets else 'met' if value <= targets[key] else 'missed',
            )
            for key, value in result['ratios'].items()
        ],
    )
    console.print(result['mmrazor'], markup=False)


def print_summary(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """Print one column a variant: milliseconds, then ratios."""
    rows = []
    for key, label in CASES.items():
        rows.append(
            [
                f'{label}, ms',
                *(_cell(result.get('seconds', {}), key, 1e3, 1) for result in results.values()),
            ]
        )
    for key, label in RATIOS.items():
        rows.append(
            [label, *(_cell(result.get('ratios', {}), key, 1, 3) for result in results.values())]
        )
    filled = [row for row in rows if set(row[1:]) != {'–'}]
    print_table(console, 'all variants', ['', *results], filled)


COLUMNS = (
    'method',
    'ms',
    'of the step',
    'aim',
    'memory ÷ maps',
    'of it temporary',
    'time at 2 × positions',
    'own parameters',
    'missed',
)


def method_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row of cells for each method, dearest first; those that cannot be built last."""
    aims = result['aims']
    rows = []
    for name, row in sorted(result['methods'].items(), key=_dearest_first):
        if 'error' in row:
            rows.append([name, *['–'] * (len(COLUMNS) - 2), _said(name, row['error'])])
            continue
        aim = aims['share_with_modules' if row['parameters'] else 'share']
        growth = row['growth']
        rows.append(
            [
                name,
                f'{1e3 * row["seconds"]:.1f}',
                f'{row["share"]:.3f}',
                f'≤ {aim:.2f}',
                f'{row["peak"]:.1f}',
                f'{row["memory"]:.1f}',
                '–' if growth is None else f'× {growth:.1f}',
                f'{row["parameters"]:,}',
                ', '.join(row['missed']) or '–',
            ]
        )
    return rows


def _said(name: str, error: str) -> str:
    """Return what an error says, without its kind, the method's name and the mend."""
    return error.partition(f'method {name!r}: ')[2].partition('. Mend: ')[0] or error


def _dearest_first(item: tuple[str, dict[str, Any]]) -> tuple[float, str]:
    return -item[1].get('share', -1.0), item[0]


def print_methods(console: Console, result: dict[str, Any], markdown: bool = False) -> None:
    """Print what the objectives of each method cost.

    Args:
        console: Where.
        result: What :func:`mmkd.apis.benchmark.method_costs` returns.
        markdown: Whether to print a table of Markdown.
    """
    height, width = result['size']
    said = (
        f"{result['batch_size']} × {height}×{width}; the student's step takes "
        f'{1e3 * result["step"]:.0f} ms'
    )
    rows = method_rows(result)
    if not markdown:
        print_table(console, f'objectives of each method alone: {said}', COLUMNS, rows)
        return
    lines = [COLUMNS, ['---'] * len(COLUMNS), *rows]
    text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    console.print(f'{said}\n\n{text}', markup=False, highlight=False, soft_wrap=True)


def _cell(values: dict[str, float], key: str, factor: float, digits: int) -> str:
    return f'{factor * values[key]:.{digits}f}' if key in values else '–'
