"""What is told of methods follows from what they make of pairs, and costs are those measured."""

import re
from pathlib import Path

import pytest

from mmkd.methods import known_methods
from mmkd.methods.facts import all_facts, facts_of

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks' / 'README.md'


def test_labels_weights_and_reads_are_those_of_the_plan() -> None:
    told = {one.name: one for one in all_facts()}
    assert {name for name, one in told.items() if one.labels} == {
        'bpkd',
        'byot',
        'cirkd-memory',
        'crd',
        'dkd',
        'heteroakd',
        'id',
        'ifvd',
        'kdcl',
        'ksanc',
        'messy',
        'nkd',
        'ofa',
        'one',
        'pid',
        'psk',
        'sid',
        'wsld',
    }
    assert {name for name, one in told.items() if 'critic' in one.weights} == {
        'afd',
        'ksanc',
        'skd',
    }
    assert told['kd'].reads == ('logits',)
    assert told['bpkd'].reads == ('logits', 'batch.labels')
    assert told['quest'].weights == ('layers of AssignmentKLLoss',)
    assert told['ft'].weights == ('layers of FactorTransferLoss',)
    assert told['mgd'].weights == (
        'generator of MaskedGenerationLoss',
        '1×1 convolution where channels differ',
    )
    assert told['reviewkd'].weights == ('layers of LevelFusion',)
    assert told['semckd'].weights == ('attention of CrossLevelLoss', 'layers of LevelPairs')
    assert told['ofd'].weights == ('conv-bn',)
    assert told['cirkd-memory'].weights == ('conv-bn-relu-conv',)
    assert told['crd'].weights == ('layers of QueueContrastLoss',)
    assert told['afdcd'].weights[0] == 'generator of PatchContrastLoss'
    assert told['cwd'].weights == ()
    assert told['srrl'].weights == ('conv-bn-relu',)
    assert told['crosskd'].weights == ('1×1 convolution where channels differ',)
    assert told['simkd'].weights[0] == 'layers of BorrowedClassifier'
    assert 'layers of BorrowedImageClassifier' in told['simkd'].weights
    assert told['ofa'].weights == ('layers of ExitLoss',)
    assert told['heteroakd'].weights == ('layers of MixedExitLoss',)
    assert told['heteroakd'].reads == ('stages', 'logits', 'batch.labels')
    assert told['fitnet'].weights[:2] == ('1×1 convolution', 'conv-bn-relu')
    assert told['vid'].weights[0] == 'variances of VariationalInformationLoss'
    assert told['ctkd'].weights == ('temperature of LearnedTemperatureKLLoss',)
    assert told['ld'].reads == ('edges', 'logits')
    assert told['crosskd'].reads[-1] == 'bbox_head.scales.*'  # once, not once a level
    assert told['end'].weights == (), 'a convolution between classes is refused'
    assert told['one'].weights == ('weights of gate',)
    assert told['byot'].weights[0] == 'layers of ExitLoss'
    peers = {'afd', 'dml', 'kdcl', 'l1', 'one'}
    assert {name for name, one in told.items() if one.members == 'peers'} == peers
    alone = {'byot', 'dlb', 'ema', 'psk'}
    assert {name for name, one in told.items() if one.members == 'none'} == alone


@pytest.mark.parametrize('name', known_methods())
def test_costs_are_measured_ones(name: str) -> None:
    measured = BENCHMARKS.read_text()
    numbers = re.findall(r'\d\.\d+', facts_of(name).cost)
    assert all(number in measured for number in numbers), numbers
