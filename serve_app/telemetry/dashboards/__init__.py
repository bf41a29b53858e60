"""The one source of the Grafana dashboard and the Prometheus rules."""
