"""What the operator counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

API_REQUESTS = Counter("wan22_operator_api_requests", "Requests to the API server, watches left out.", ["verb"])
RECONCILES = Counter("wan22_operator_reconciles", "Looks at an object, by what came of it.", ["outcome"])
RECONCILE_SECONDS = Histogram("wan22_operator_reconcile_seconds", "Duration of a look at an object.")
STEPS = Counter("wan22_operator_steps", "Steps of resizes taken.", ["step"])
ADMISSIONS = Counter("wan22_operator_admissions", "Admission requests answered.", ["webhook", "result"])
LEADING = Gauge("wan22_operator_leading", "1 on the replica that reconciles.")
QUEUED = Gauge("wan22_operator_queued_objects", "Objects that are to be looked at, now or later.")
