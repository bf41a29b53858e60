"""From the settings to the CloudWatch publisher, and how it does as Ray metrics."""

from __future__ import annotations

from deployments.metrics import Metric
from serve_app.telemetry.cloudwatch import Api, Publisher, Sink, api_client
from serve_app.telemetry.emf import Emf
from serve_app.telemetry.settings import CloudWatchSettings
from serve_app.validation import SettingsError

SENT = Metric(
    name="imagine_cloudwatch_sent",
    kind="gauge",
    about="pictures that CloudWatch has taken since the ingress started",
)
DROPPED = Metric(
    name="imagine_cloudwatch_dropped",
    kind="gauge",
    about="pictures given up because CloudWatch was out for too long, since the ingress started",
)
FAILURES = Metric(
    name="imagine_cloudwatch_failures",
    kind="gauge",
    about="batches that did not get through, since the ingress started",
)
CLOUDWATCH_METRICS = (SENT, DROPPED, FAILURES)


def make_publisher(settings: CloudWatchSettings) -> Publisher:
    """The publisher that the settings ask for, not yet started.

    Raises:
        SettingsError: boto3 is needed and not installed.
    """
    sink: Sink
    if settings.mode == "emf":
        sink = Emf(settings.namespace, settings.dimensions, settings.file)
    else:
        try:
            client = api_client(settings.region or "", settings.endpoint_url)
        except ImportError:
            raise SettingsError(
                "telemetry.cloudwatch: mode 'api' needs boto3: pip install 'imagine-serve[aws]'"
            ) from None
        sink = Api(client, settings.namespace, settings.dimensions)
    return Publisher(sink, period_s=settings.period_s, max_waiting=settings.max_waiting)


class RayPublisherMetrics:
    """Gauges of a publisher; must be made inside a Serve replica."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._sent, self._dropped, self._failures = (m.make() for m in CLOUDWATCH_METRICS)

    def show(self) -> None:
        """Show the counts."""
        self._sent.set(self._publisher.sent)
        self._dropped.set(self._publisher.dropped)
        self._failures.set(self._publisher.failures)
