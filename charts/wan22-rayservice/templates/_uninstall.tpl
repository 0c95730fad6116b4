{{/*
Metadata of an object of the hook that uninstalls in order.
Usage: {{- include "wan22.uninstallMetadata" (dict "root" . "weight" "0") | nindent 2 }}
*/}}
{{- define "wan22.uninstallMetadata" -}}
name: {{ include "wan22.base" .root }}-uninstall
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "wan22.labels" (dict "root" .root "component" "uninstall") | nindent 2 }}
annotations:
  helm.sh/hook: pre-delete
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
