"""Packages by their old names: what users import goes on to be there, under one name only."""

import importlib

import pytest

import mmkd
from mmkd.utils.aliases import ALIASES

OLD = dict(
    adapters=['HFTextClassifier', 'TextDataPreprocessor'],
    benchmark=['Options', 'Pair', 'run', 'ratios', 'environment'],
    doctor=['diagnose', 'Report'],
    hooks=['ScheduleHook', 'VocabularyHook', 'SafeCheckpointHook'],
    launch=[
        'load_config',
        'build_runner',
        'prepare_config',
        'is_distiller',
        'check_checkpoint',
    ],
    metrics=['Accuracy', 'nll', 'dirichlet_uncertainty', 'ood_auroc', 'UncertaintyMetric'],
    modules=[
        'Connector',
        'AffinityRows',
        'HolisticCritic',
        'Vocabulary',
        'AttentionEstimator',
        'AssignmentPredictor',
    ],
    schedules=['Linear', 'Cosine', 'Anneal', 'Progressive', 'Stacked', 'build_schedule'],
)


@pytest.mark.parametrize('old', ALIASES)
def test_every_name_of_an_old_package(old: str) -> None:
    package = importlib.import_module(f'mmkd.{old}')
    assert package is getattr(mmkd, old)
    for name in OLD[old]:
        found = getattr(package, name)
        home = importlib.import_module(found.__module__)
        assert getattr(home, name) is found, 'the class itself, not a second one'
        assert (
            home.__name__ in ('mmkd.apis.launch', 'mmkd.utils.timing')
            or '.'.join(home.__name__.split('.')[:2]) != f'mmkd.{old}'
        ), 'it lives elsewhere'
        assert name in dir(package)


def test_modules_below_an_old_package_are_not_found() -> None:
    """Found there, they would register their classes twice."""
    with pytest.raises(ModuleNotFoundError, match="'mmkd.hooks' is not a package"):
        importlib.import_module('mmkd.hooks.schedule')
    with pytest.raises(
        AttributeError, match=r"mmkd.hooks has no 'ScheduelHook'. Mend: look in mmkd.engine.hooks"
    ):
        mmkd.hooks.ScheduelHook  # noqa: B018  the lookup is the test
