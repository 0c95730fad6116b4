{{/*
Name of the operator's objects.
Usage: {{ include "wan22.operatorName" . }}
*/}}
{{- define "wan22.operatorName" -}}
{{- printf "%s-operator" (include "wan22.base" .) -}}
{{- end }}

{{/*
Name of the operator's objects that have no namespace.
Usage: {{ include "wan22.operatorClusterName" . }}
*/}}
{{- define "wan22.operatorClusterName" -}}
{{- printf "%s-%s" (include "wan22.operatorName" .) .Release.Namespace -}}
{{- end }}

{{/*
Name of the webhooks' Service and of the Secret with their certificate.
Usage: {{ include "wan22.webhookName" . }}
*/}}
{{- define "wan22.webhookName" -}}
{{- printf "%s-webhook" (include "wan22.operatorName" .) -}}
{{- end }}

{{/*
"true" if webhooks are served.
Usage: {{ if include "wan22.webhookEnabled" . }}
*/}}
{{- define "wan22.webhookEnabled" -}}
{{- /* Helm renders the webhooks' templates before validate.yaml. */}}
{{- include "wan22.validateKeys" . -}}
{{- if and .Values.operator.enabled .Values.webhook.enabled }}true{{ end -}}
{{- end }}

{{/*
"true" if the operator sets minAvailable in the PodDisruptionBudget of the worker pods.
Usage: {{ if include "wan22.operatorKeepsBudget" . }}
*/}}
{{- define "wan22.operatorKeepsBudget" -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- if and .Values.operator.enabled .Values.app.deploy $budget.enabled (kindIs "invalid" $budget.minAvailable) }}true{{ end -}}
{{- end }}

{{/*
The namespaces that the operator follows as a JSON list; an empty list if it follows all of them.
Usage: {{ include "wan22.operatorNamespaces" . | fromJsonArray }}
*/}}
{{- define "wan22.operatorNamespaces" -}}
{{- .Values.operator.clusterWide | ternary list (prepend (.Values.operator.namespaces | default list) .Release.Namespace | uniq) | toJson -}}
{{- end }}

{{/*
kopf's flag for the log level; nothing for info, its default.
Usage: {{ include "wan22.operatorLogFlag" . }}
*/}}
{{- define "wan22.operatorLogFlag" -}}
{{- get (dict "debug" "--verbose" "warning" "--quiet") .Values.operator.logLevel -}}
{{- end }}

{{/*
What the operator may do with Ray objects and what belongs to them, in the namespaces that it watches.
Usage: {{- include "wan22.operatorRules" . | nindent 2 }}
*/}}
{{- define "wan22.operatorRules" -}}
- apiGroups: [ray.io]
  resources: [rayservices, rayclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ prepend (.Values.operator.tokenSecrets | default list) (include "wan22.raySecret" .) | uniq | toJson }}
  verbs: [get]
{{- end }}

{{/*
Environment of the operator's container.
Usage: {{ include "wan22.operatorEnv" . | fromYamlArray }}
*/}}
{{- define "wan22.operatorEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: WATCH_NAMESPACE, value: {{ include "wan22.operatorNamespaces" . | fromJsonArray | join "," | quote }}}
- {name: LEASE_NAME, value: {{ include "wan22.operatorName" . }}}
- {name: RESYNC_SECONDS, value: {{ .Values.operator.resyncSeconds | quote }}}
- {name: METRICS_PORT, value: "8080"}
- {name: WEBHOOK_ENABLED, value: {{ .Values.webhook.enabled | quote }}}
{{- if .Values.webhook.enabled }}
- {name: WEBHOOK_PORT, value: "9443"}
- {name: WEBHOOK_SERVICE, value: {{ include "wan22.webhookName" . }}}
- {name: WEBHOOK_SECRET, value: {{ include "wan22.webhookName" . }}}
- {name: WEBHOOK_CONFIGURATION, value: {{ include "wan22.operatorClusterName" . }}}
- {name: WEBHOOK_URL, value: {{ .Values.webhook.url | quote }}}
{{- end }}
{{- end }}
