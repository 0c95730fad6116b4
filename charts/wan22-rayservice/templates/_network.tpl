{{/*
The release's Ray pods, as NetworkPolicy peers.
Usage: {{- include "wan22.rayPeers" . | nindent 8 }}
*/}}
{{- define "wan22.rayPeers" -}}
{{- range $component := list "ray-head" "ray-worker" }}
- podSelector:
    matchLabels:
      {{- include "wan22.raySelectorLabels" (dict "root" $ "component" $component) | nindent 6 }}
{{- end }}
{{- end }}

{{/*
Every pod of the release, as a NetworkPolicy peer: the operator, the smoke test and the Job that deploys among them.
Usage: {{- include "wan22.releasePeers" . | nindent 8 }}
*/}}
{{- define "wan22.releasePeers" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
