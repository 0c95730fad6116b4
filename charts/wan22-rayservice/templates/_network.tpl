{{/*
The release's Ray pods, as NetworkPolicy peers. No selector of pods matches those with the node's network, so that their
nodes are peers by address.
Usage: {{- include "wan22.rayPeers" . | nindent 8 }}
*/}}
{{- define "wan22.rayPeers" -}}
{{- range $component := list "ray-head" "ray-worker" }}
- podSelector:
    matchLabels:
      {{- include "wan22.raySelectorLabels" (dict "root" $ "component" $component) | nindent 6 }}
{{- end }}
{{- range .Values.networkPolicy.nodeCidrs }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}

{{/*
Rule that opens the metrics port of a pod; nothing if nobody reads metrics.
Usage: {{- include "wan22.metricsRule" . | nindent 4 }}
*/}}
{{- define "wan22.metricsRule" -}}
{{- if or .Values.podMonitor.enabled .Values.networkPolicy.metricsFrom }}
- ports:
    - {port: 8080, protocol: TCP}
  {{- with .Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
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
