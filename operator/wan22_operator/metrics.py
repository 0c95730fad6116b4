"""Prometheus metrics of the operator."""

from prometheus_client import Counter, Gauge, Histogram

API_REQUESTS = Counter("wan22_operator_api_requests", "Requests to the API server, watches not included.", ["verb"])
RECONCILES = Counter("wan22_operator_reconciles", "Reconciles of an object, by outcome.", ["outcome"])
RECONCILE_SECONDS = Histogram("wan22_operator_reconcile_seconds", "Duration of one reconcile of an object.")
STEPS = Counter("wan22_operator_steps", "Steps of resizes taken.", ["step"])
ADMISSIONS = Counter("wan22_operator_admissions", "Admission requests answered.", ["webhook", "result"])
LEADING = Gauge("wan22_operator_leading", "1 on the replica that reconciles.")
QUEUED = Gauge("wan22_operator_queued_objects", "Objects waiting to be reconciled.")
