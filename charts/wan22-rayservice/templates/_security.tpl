{{/*
Security context of a container, as Pod Security "restricted" asks; KubeRay copies it to the init container it adds.
Usage: {{- include "wan22.containerSecurity" (dict "capabilities" (list "IPC_LOCK")) | nindent 4 }}
*/}}
{{- define "wan22.containerSecurity" -}}
allowPrivilegeEscalation: false
runAsNonRoot: true
capabilities:
  drop: [ALL]
  {{- with .capabilities }}
  add: {{ toJson . }}
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/*
Security context of a pod that is no Ray pod.
Usage: {{- include "wan22.podSecurity" (dict "uid" 65532) | nindent 4 }}
*/}}
{{- define "wan22.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
fsGroup: {{ .uid }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
