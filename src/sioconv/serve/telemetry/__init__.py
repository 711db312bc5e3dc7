"""What a server tells of its work: figures for Prometheus, traces for OpenTelemetry."""
