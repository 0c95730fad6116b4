{{/*
"true" if a Job deploys the application: on a RayCluster that no operator follows.
Usage: {{ if include "wan22.deployJob" . }}
*/}}
{{- define "wan22.deployJob" -}}
{{- if and (eq .Values.kind "RayCluster") .Values.app.deploy (not .Values.operator.enabled) }}true{{ end -}}
{{- end }}
