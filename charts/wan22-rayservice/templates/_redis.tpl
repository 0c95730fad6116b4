{{/*
Host of Redis.
Usage: {{ include "wan22.redisHost" . }}
*/}}
{{- define "wan22.redisHost" -}}
{{- .Values.redis.enabled | ternary (printf "%s-redis" (include "wan22.base" .)) .Values.redis.external.host -}}
{{- end }}

{{/*
Port of Redis.
Usage: {{ include "wan22.redisPort" . }}
*/}}
{{- define "wan22.redisPort" -}}
{{- .Values.redis.enabled | ternary 6379 (int .Values.redis.external.port) -}}
{{- end }}

{{/*
"true" where Redis is spoken to by TLS.
Usage: {{ if include "wan22.redisTls" . }}
*/}}
{{- define "wan22.redisTls" -}}
{{- if and (not .Values.redis.enabled) .Values.redis.external.tls }}true{{ end -}}
{{- end }}

{{/*
Secret with the password of Redis; nothing for an external one without.
Usage: {{ include "wan22.redisSecret" . }}
*/}}
{{- define "wan22.redisSecret" -}}
{{- .Values.redis.existingSecret | default (.Values.redis.enabled | ternary (printf "%s-redis" (include "wan22.base" .)) "") -}}
{{- end }}

{{/*
Where the password of Redis comes from.
Usage: {{- include "wan22.redisPasswordSource" . | nindent 4 }}
*/}}
{{- define "wan22.redisPasswordSource" -}}
valueFrom:
  secretKeyRef:
    name: {{ include "wan22.redisSecret" . }}
    key: {{ .Values.redis.passwordKey }}
{{- end }}
