{{/*
Image of the app.
Usage: {{ include "wan22.image" . }}
*/}}
{{- define "wan22.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%v" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/*
Image of the operator; the uninstall hook uses it too.
Usage: {{ include "wan22.operatorImage" . }}
*/}}
{{- define "wan22.operatorImage" -}}
{{- printf "%s:%v" .Values.operator.image.repository (.Values.operator.image.tag | default .Chart.AppVersion) -}}
{{- end }}

{{/*
Image of the chart's own Redis.
Usage: {{ include "wan22.redisImage" . }}
*/}}
{{- define "wan22.redisImage" -}}
{{- printf "%s:%v" .Values.redis.image.repository .Values.redis.image.tag -}}
{{- end }}

{{/*
imagePullSecrets of a pod.
Usage: {{- include "wan22.imagePullSecrets" . | nindent 6 }}
*/}}
{{- define "wan22.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
