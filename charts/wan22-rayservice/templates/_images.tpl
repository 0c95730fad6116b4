{{/*
Reference of an image: by its digest if one is given, else by its tag or the chart's appVersion.
Usage: {{ include "wan22.imageReference" (dict "root" . "image" .Values.operator.image) }}
*/}}
{{- define "wan22.imageReference" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%v" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/*
Image of the app.
Usage: {{ include "wan22.image" . }}
*/}}
{{- define "wan22.image" -}}
{{- include "wan22.imageReference" (dict "root" . "image" .Values.image) -}}
{{- end }}

{{/*
Image of the operator; the uninstall hook uses it too.
Usage: {{ include "wan22.operatorImage" . }}
*/}}
{{- define "wan22.operatorImage" -}}
{{- include "wan22.imageReference" (dict "root" . "image" .Values.operator.image) -}}
{{- end }}

{{/*
Image of the chart's own Redis.
Usage: {{ include "wan22.redisImage" . }}
*/}}
{{- define "wan22.redisImage" -}}
{{- include "wan22.imageReference" (dict "root" . "image" .Values.redis.image) -}}
{{- end }}

{{/*
imagePullSecrets of a pod.
Usage: {{- include "wan22.imagePullSecrets" . | nindent 6 }}
*/}}
{{- define "wan22.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- include "wan22.keyed" (dict "key" "name" "own" list "given" .) | nindent 2 }}
{{- end }}
{{- end }}
