{{/*
Metadata of a pod that runs once.
Usage: {{- include "wan22.jobPodMetadata" (dict "root" . "component" "deploy") | nindent 6 }}
*/}}
{{- define "wan22.jobPodMetadata" -}}
labels:
  {{- merge (include "wan22.selectorLabels" . | fromYaml) (.root.Values.jobs.podLabels | default dict) | toYaml | nindent 2 }}
{{- with .root.Values.jobs.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
What the pods that run once share: the smoke test, the Job that deploys and the uninstall hook.
Usage: {{- include "wan22.jobPod" . | nindent 6 }}
*/}}
{{- define "wan22.jobPod" -}}
restartPolicy: Never
{{- with include "wan22.imagePullSecrets" . }}
{{ . | trim }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $.Values.jobs $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end }}
