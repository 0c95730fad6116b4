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
