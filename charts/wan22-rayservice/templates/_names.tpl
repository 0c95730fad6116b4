{{/*
Base of all names: the release's, or fullnameOverride, without the suffix of its kind.
Usage: {{ include "wan22.base" . }}
*/}}
{{- define "wan22.base" -}}
{{- default .Release.Name .Values.fullnameOverride | trimSuffix "-rayservice" | trimSuffix "-ray-cluster" | trunc 35 | trimSuffix "-" -}}
{{- end }}

{{/*
Name of the RayService or RayCluster.
Usage: {{ include "wan22.fullname" . }}
*/}}
{{- define "wan22.fullname" -}}
{{- printf "%s-%s" (include "wan22.base" .) (eq .Values.kind "RayService" | ternary "rayservice" "ray-cluster") -}}
{{- end }}

{{/*
Service that answers the API: KubeRay's serve Service, or the head's Service of a plain RayCluster.
Usage: {{ include "wan22.apiService" . }}
*/}}
{{- define "wan22.apiService" -}}
{{- printf "%s-%s" (include "wan22.fullname" .) (eq .Values.kind "RayService" | ternary "serve-svc" "head-svc") -}}
{{- end }}

{{/*
ServiceAccount of the Ray pods.
Usage: {{ include "wan22.serviceAccountName" . }}
*/}}
{{- define "wan22.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "wan22.base" .) "default") -}}
{{- end }}

{{/*
Secret with Ray's token, under the key auth_token.
Usage: {{ include "wan22.raySecret" . }}
*/}}
{{- define "wan22.raySecret" -}}
{{- .Values.ray.auth.existingSecret | default (printf "%s-ray-token" (include "wan22.base" .)) -}}
{{- end }}
