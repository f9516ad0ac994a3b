"""What the documents show is run: code, configs, names of files, links; and how they look."""

import ast
import doctest
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest
import torch
import yaml
from mmengine.config import Config

import mmkd
from mmkd.methods import expand
from mmkd.registry import HOOKS, METHODS, SCHEDULES, TASKS, build_part
from mmkd.structures.batch import Batch
from mmkd.tasks import task_of

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / 'docs').rglob('*.md'))
RECIPES = sorted((ROOT / 'configs').glob('*/README.md'))
DOCUMENTS = [
    *sorted(ROOT.glob('*.md')),
    *GUIDES,
    *RECIPES,
    *sorted((ROOT / 'benchmarks').glob('*.md')),
]
HISTORY = ('CHANGELOG.md',)  # names what has been, too


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks_of(document: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (ROOT / document).read_text(), re.DOTALL)


def without_code(document: Path) -> str:
    return re.sub(r'```.*?```|`[^`\n]*`', '', document.read_text(), flags=re.DOTALL)


BLOCKS = [
    (name_of(document), block) for document in DOCUMENTS for block in blocks_of(name_of(document))
]
OWN_PARTS = (
    'docs/advanced_guides/add-a-loss.md',
    'docs/advanced_guides/add-a-method.md',
    'docs/advanced_guides/add-a-schedule.md',
)  # they register their own
NEW_STYLE = ('docs/user_guides/new_style.md',)  # no module by itself; tests/apis/test_new_style.py
SETTINGS = [
    (name, block)
    for name, block in BLOCKS
    if name not in (*OWN_PARTS, *NEW_STYLE)
    and re.search(r'(objectives|noise|schedules|levels) ?=', block)
]


@pytest.mark.slow
def test_the_loss_of_the_guide_passes_its_own_test(tmp_path):
    loss, test, config = blocks_of('docs/advanced_guides/add-a-loss.md')
    (tmp_path / 'channel_wise.py').write_text(loss)
    (tmp_path / 'test_channel_wise.py').write_text(test)
    (tmp_path / 'config.py').write_text(config)
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '--doctest-modules',
        '--rootdir',
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={'PYTHONPATH': f'{ROOT}:{tmp_path}', 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert '4 passed' in run.stdout, run.stdout + run.stderr


def test_the_method_of_the_guide_is_one():
    method, config = blocks_of('docs/advanced_guides/add-a-method.md')
    found: dict = {}
    exec(config, found)
    net = dict(type='Net', decode_head=dict(num_classes=3))
    try:
        exec(method, found)
        made, _ = expand({**found['model'], 'student': net, 'teacher': net})
    finally:
        METHODS.module_dict.pop('hint')
    assert made['objectives']['hint']['weight'] == 2.0
    assert made['taps'] == dict(feat='auto:feature')


@pytest.mark.parametrize(
    ('document', 'small'),
    [('README.md', 'student.py'), ('docs/get_started.md', 'my_configs/small.py')],
)
def test_the_config_of_the_document_names_a_method(document, small, tmp_path, monkeypatch):
    block = next(b for b in blocks_of(document) if "type='mmkd.Distiller'" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    student = tmp_path / small
    student.parent.mkdir(exist_ok=True)
    student.write_text(f'_base_ = {str(ROOT / "configs/demo/student.py")!r}\n')
    file = tmp_path / 'work_dirs' / 'run' / 'config.py'
    file = file if '../../' in block else tmp_path / 'config.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(file)
    assert config.model.student.cfg == small
    assert config.train_dataloader == Config.fromfile(student).train_dataloader
    shutil.copy(student, tmp_path / config.model.teacher.cfg)
    made, additions = expand(config.model.to_dict())
    assert list(made['objectives']) == ['pixel']
    assert made['objectives']['pixel']['weight'] == 10.0


def test_the_config_without_a_method_parses(tmp_path):
    block = next(b for b in blocks_of('docs/get_started.md') if 'objectives=' in b)
    (tmp_path / 'config.py').write_text(block)
    config = Config.fromfile(tmp_path / 'config.py')
    assert config.model.type == 'mmkd.Distiller'
    assert config.optim_wrapper.constructor == 'mmkd.PhaseOptimWrapperConstructor'
    assert config.model.objectives.pixel.weight == 10.0


def test_the_guide_keeps_data_and_schedule_of_the_students_config(tmp_path):
    block = next(b for b in blocks_of('docs/get_started.md') if '{{_base_.model}}' in b)
    (tmp_path / 'my_configs').mkdir()
    small = tmp_path / 'my_configs' / 'small.py'
    small.write_text(f'_base_ = {str(ROOT / "configs/demo/student.py")!r}\n')
    (tmp_path / 'config.py').write_text(block)
    config, alone = Config.fromfile(tmp_path / 'config.py'), Config.fromfile(small)
    assert config.model.student.model == alone.model
    for key in ('train_dataloader', 'param_scheduler', 'train_cfg', 'optim_wrapper'):
        assert config[key] == alone[key]
    assert config.default_hooks.checkpoint.type == 'mmkd.SafeCheckpointHook'
    runtime = Config.fromfile(ROOT / 'configs/_base_/runtime.py')
    hooks = {hook.type for hook in runtime.custom_hooks}
    assert {hook['type'] for hook in config.custom_hooks} == hooks - {'mmkd.LengthCheckHook'}


def as_module(block: str) -> str:
    """Return a block that is a module, or the arguments of a Distiller, as a module."""
    block = block.replace('{{_base_.model}}', 'dict()')  # mmengine's own syntax
    try:
        ast.parse(block)
    except SyntaxError:
        return f'settings = dict(\n{block})'
    return block


@pytest.mark.parametrize(('document', 'block'), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_code_compiles(document, block):
    compile(as_module(block), document, 'exec')


def parts_in(value, key=''):
    """Yield (key, config) of every part in nested settings."""
    alone = ('levels', 'noise', 'where')  # or a list of them
    if key in ('loss', 'schedules') or (key in alone and isinstance(value, dict)):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from parts_in(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from parts_in(each, key)


@pytest.mark.parametrize(('document', 'block'), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_parts_of_the_configs_build(document, block):
    found: dict = {}
    exec(as_module(block), found)
    parts = list(parts_in({name: value for name, value in found.items() if name != '__builtins__'}))
    assert parts or 'phases' in block
    for key, config in parts:
        if key in ('loss', 'noise', 'where'):
            build_part(config)
        else:
            HOOKS.build(dict(type='mmkd.ScheduleHook', **{key: config}))


@pytest.mark.parametrize('document', [d for d in DOCUMENTS if d.name not in HISTORY], ids=name_of)
def test_files_that_documents_name_exist(document):
    named = re.findall(
        r'`((?:mmkd|tools|configs|docs|tests|benchmarks|examples)/[\w./-]+)`', document.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def anchors_in(document: Path) -> set[str]:
    headings = re.findall(r'^#+ (.+)$', document.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    text = without_code(document)
    links = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(
        r'^\[[\w ]+\]: (\S+)$', text, re.MULTILINE
    )
    broken = []
    for link in links:
        path, _, anchor = link.partition('#')
        target = document.parent / path if path else document
        if re.match(r'https?://', link):
            continue
        if not target.exists() or (anchor and anchor not in anchors_in(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)
def test_no_line_is_wider_than_120_columns(document):
    lines = enumerate(document.read_text().splitlines(), 1)
    if document.name == 'architectures.md':  # a row of its table is as long as the taps' names
        lines = ((n, line) for n, line in lines if not line.startswith('|'))
    assert [
        f'line {n}'
        for n, line in lines
        if len(line) > 120 and not re.fullmatch(r'\W*https?://\S+|\| [\w-]+:\S{20,} \|.*', line)
    ] == []  # a row of a comparison may be as long as the options of its method


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 110


def test_every_page_of_the_site_is_listed():
    listed = set()
    for contents in (ROOT / 'docs').rglob('index.md'):
        for tree in re.findall(r'```{toctree}(.*?)```', contents.read_text(), re.DOTALL):
            for page in re.findall(r'^(/?\w[\w/*-]*)$', tree, re.MULTILINE):
                folder = ROOT if page.startswith('/') else contents.parent
                found = list(folder.glob(f'{page.lstrip("/")}.md'))
                assert found, f'{contents}: {page}'
                listed |= set(found)
    assert listed >= {*GUIDES, *RECIPES} - {ROOT / 'docs' / 'index.md'}


def test_every_module_is_in_the_api():
    pages = [page.read_text() for page in (ROOT / 'docs' / 'api').glob('*.md')]
    shown = re.findall(r'^```{room} (.+)$', '\n'.join(pages), re.MULTILINE)
    shown = ' '.join(shown).split()
    modules = [module.name for module in walk_packages(mmkd.__path__, 'mmkd.')]
    missing = [
        m for m in modules if not any(m == name or m.startswith(f'{name}.') for name in shown)
    ]
    assert [m for m in missing if m != 'mmkd.__main__'] == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmkd.__version__
    assert {
        'cff-version',
        'message',
        'title',
        'authors',
        'license',
        'date-released',
    } <= citation.keys()
    assert (
        f'## [{mmkd.__version__}] - {citation["date-released"]}'
        in (ROOT / 'CHANGELOG.md').read_text()
    )


@pytest.mark.parametrize(
    'template', sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.md')), ids=lambda t: t.stem
)
def test_issue_templates_have_a_head(template):
    head = yaml.safe_load(template.read_text().split('---')[1])
    assert {'name', 'about', 'labels'} <= head.keys()


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    """Import a block of a guide as a module; what it registers is taken back afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (SCHEDULES, TASKS):
        monkeypatch.setattr(registry, '_module_dict', dict(registry.module_dict))

    def load(name, block):
        (tmp_path / f'{name}.py').write_text(block)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def test_the_schedule_of_the_guide(module_of):
    code, config = blocks_of('docs/advanced_guides/add-a-schedule.md')
    assert doctest.testmod(module_of('halving', code)).failed == 0
    settings: dict = {}
    exec(config, settings)
    hook = HOOKS.build(settings['default_hooks']['schedule'])
    assert [hook.schedules['kd.weight'](step) for step in (0, 500, 1500)] == [8.0, 4.0, 1.0]


def test_the_task_of_the_guide(module_of):
    (code,) = blocks_of('docs/advanced_guides/add-a-task.md')
    poses = module_of('poses', code).Poses
    net = torch.nn.Module()
    net.keypoint_head = torch.nn.Conv2d(1, 2, 1)
    assert task_of(net) == poses(2)
    sample = task_of(net).sample((4, 6), torch.Generator().manual_seed(0))
    batch = Batch(torch.zeros(1, 3, 4, 6), [sample])
    assert batch.valid.tolist() == [[[True] * 6] * 4]


def tables_of_docs() -> ModuleType:
    path = ROOT / 'docs' / 'tables.py'
    spec = importlib.util.spec_from_file_location('docs_tables', path)
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    return tables


def test_tables_of_comparisons_are_those_on_record() -> None:
    tables = tables_of_docs()
    assert tables.write_pages(check=True) == [], 'mend: python docs/tables.py'
    used = {one['name'] for page in GUIDES for one in tables.PLACE.finditer(page.read_text())}
    assert used == {path.stem for path in (ROOT / 'docs/records').glob('*.json')}


def test_what_a_page_says_with_a_spread_is_on_record() -> None:
    tables = tables_of_docs()
    for page in tables.PROVEN:
        text = (ROOT / page).read_text()
        assert len(tables.SPREAD.findall(text)) >= 5, page
        said = tables.unproven(text, tables.proven(page))
        assert said == [], f'{page} says what no record has'


def test_a_spread_is_that_of_a_row_or_of_a_gain_over_shared_seeds(tmp_path, monkeypatch) -> None:
    tables = tables_of_docs()
    monkeypatch.setattr(tables, 'RECORDS', tmp_path)
    rows = [
        dict(seeds=[0, 1, 2], test=[20.0, 21.0, 22.0]),
        dict(seeds=[2, 0], test=[25.0, 21.0]),  # gains 1 at seed 0, 3 at seed 2
        dict(seeds=[7], test=[1.0]),
    ]
    (tmp_path / 'one.json').write_text(json.dumps(dict(rows=rows)))
    known = tables.proven('docs/results.md')
    told = '21.0 ± 1.0, 23.0 ± 2.8, gains −2.00 ± 1.41 or 2.0\n± 1.4, but 3.0 ± 1.4 and 2.0 ± 1.5'
    assert tables.unproven(told, known) == ['3.0 ± 1.4', '2.0 ± 1.5']


def test_a_number_of_the_results_is_one_of_its_section_s_tables(tmp_path, monkeypatch) -> None:
    tables = tables_of_docs()
    assert tables.untold((ROOT / tables.MEASURED).read_text()) == []
    monkeypatch.setattr(tables, 'RECORDS', tmp_path)
    spent = dict.fromkeys(tables.SPENT)
    row = dict(spent, sd=None, validation=30.0, gap_closed=None, factor=0.3)
    rows = [
        dict(row, seeds=[0, 1], test=[20.0, 22.25], mean=21.125),
        dict(row, seeds=[1], test=[25.0], mean=25.0, seconds=3.0, tried={'7.7': 33.33}),
    ]
    for name, teacher in dict(one=60.5, other=70.5).items():
        found = dict(rows=rows, teacher=teacher, teacher_on_validation=None)
        (tmp_path / f'{name}.json').write_text(json.dumps(found))
    table = '<!-- table one: mmkd compare -->\n1.1\n<!-- end of table one -->\n'
    told = '21.1 and 25.00, a gain of 2.75 at × 7.7, validated 33.3, under 60.5'
    assert tables.untold(f'## A\n{table}{told}, `0.9`, [x](y-0.8.md), 1,234.5, v1.2.3') == []
    assert tables.untold(f'## A\n{table}{told}, but 9.9') == ['A: 9.9']
    assert tables.untold(f'## A\n{table}## B\n{told[:4]}') == ['B: 21.1'], 'of its own section'
    of_other = '## A\n<!-- numbers of records: other -->\n70.5, 60.5'
    assert tables.untold(of_other) == ['A: 60.5']
    assert tables.untold('## A\n<!-- numbers of no record: 0.07 -->\n0.07 0.08') == ['A: 0.08']


def test_every_picture_is_shown_by_a_page() -> None:
    text = '\n'.join(page.read_text() for page in DOCUMENTS)
    pictures = [path.name for path in (ROOT / 'docs/images').iterdir()]
    assert pictures, 'mend: docs/images'
    assert [name for name in pictures if f'images/{name}' not in text] == []


def test_a_readme_tells_rows_of_a_comparison_seed_by_seed(tmp_path, monkeypatch) -> None:
    tables = tables_of_docs()
    monkeypatch.setattr(tables, 'RECORDS', tmp_path)
    spent = dict.fromkeys(
        ('step_ms', 'step_processor_ms', 'peak_memory_mib', 'peak_gpu_mib', 'gap_closed', 'factor')
    )
    spent |= dict(on_gpu=False, to_alone=None, to_kd=None, gradient_shares={}, seconds=90.0)
    rows = [
        dict(method='alone', recipe=None, seeds=[0, 1, 2], test=[20.0, 21.0, 22.0], **spent),
        dict(method='few', recipe='configs/a/few.py', seeds=[0, 2], test=[30.0, 31.0], **spent),
    ]
    rows = [row | dict(iterations=[1500], processor_seconds=79.6) for row in rows]
    found = dict(metric='mIoU', teacher=58.8, rows=rows)
    (tmp_path / 'one.json').write_text(json.dumps(found))
    page = '<!-- seeds one: few alone -->\nold\n<!-- end of seeds one -->\n'
    assert tables.PLACE.sub(tables._filled, page).splitlines()[1:-1] == [
        '| row | seeds 0, 1, 2 | mIoU, test | iterations | s a run, processor |',
        '| --- | --- | --- | --- | --- |',
        '| `few.py` | 30.00, –, 31.00 | 30.50 ± 0.71 | 1,500 | 80 |',
        '| the student alone | 20.00, 21.00, 22.00 | 21.00 ± 1.00 | 1,500 | 80 |',
    ]
    with pytest.raises(ValueError, match=r"row must be one of .*got 'fwe'.*few"):
        tables.seeds_of('one', ['fwe'])


def test_a_page_tells_recipes_by_the_names_of_their_files() -> None:
    tables = tables_of_docs()
    told = 'Recipes of their own, by the model: few (few.py), long (long.py).'
    own = told.replace('(few.py)', '(work_dirs/a/few.py)')
    rows = [
        dict(method='few', recipe='work_dirs/a/few.py'),
        dict(method='long', recipe='mmkd::funmatch/long.py'),
        dict(method='kd', recipe=None),
        dict(method='cwd'),  # an older record
    ]
    own = own.replace('(long.py)', '(mmkd::funmatch/long.py)')
    notes = [own, 'Beside alone: gains.', 'Best on the test set: few, work_dirs/best.py.']
    assert tables.notes_of(dict(rows=rows, notes=notes)) == [told, notes[1]]
    with pytest.raises(SystemExit, match='--check writes nothing, so a=b cannot be taken over'):
        tables.main(['--check', 'a=b'])
