"""mmseg's depth metric, where some images have no known depth."""

from typing import Any

from mmengine.logging import MMLogger
from mmseg.evaluation import DepthMetric as MMSegDepthMetric

from mmkd.registry import METRICS


@METRICS.register_module()
class DepthMetric(MMSegDepthMetric):
    """mmseg's ``DepthMetric`` over the images that have known depth.

    One image without makes a NaN of every metric there.

    Values and arguments are mmseg's: each metric is the mean over images of its mean over the
    pixels whose depth is strictly between ``min_depth_eval`` and ``max_depth_eval``.

    Raises:
        ValueError: No image has known depth.

    Examples:
        >>> metric = DepthMetric(prefix='depth', min_depth_eval=.5, max_depth_eval=10.)
        >>> metric.min_depth_eval, metric.max_depth_eval
        (0.5, 10.0)
    """

    def compute_metrics(self, results: list) -> dict[str, Any]:
        """Return the metrics of the images with known depth."""
        known = [result for result in results if len(result[0])]
        if len(known) < len(results):
            MMLogger.get_current_instance().warning(
                f'{len(results) - len(known)} of {len(results)} images have no depth between '
                f'{self.min_depth_eval} and {self.max_depth_eval} and do not count'
            )
        if results and not known:
            raise ValueError(
                f'no image of {len(results)} has depth between '
                f'min_depth_eval={self.min_depth_eval} and max_depth_eval={self.max_depth_eval}. '
                'Mend: LoadDepthAnnotation(depth_rescale_factor=…) in the pipeline of the '
                'evaluation must give metres, as in the training'
            )
        return super().compute_metrics(known)
