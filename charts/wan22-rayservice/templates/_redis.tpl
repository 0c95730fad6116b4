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
"true" if connections to Redis use TLS.
Usage: {{ if include "wan22.redisTls" . }}
*/}}
{{- define "wan22.redisTls" -}}
{{- if and (not .Values.redis.enabled) .Values.redis.external.tls }}true{{ end -}}
{{- end }}

{{/*
Redis as Ray's own state names it.
Usage: {{ include "wan22.redisAddress" . }}
*/}}
{{- define "wan22.redisAddress" -}}
{{- printf "%s:%s" (include "wan22.redisHost" .) (include "wan22.redisPort" .) | print (include "wan22.redisTls" . | empty | ternary "" "rediss://") -}}
{{- end }}

{{/*
Redis as a URL with TLS. The password is the variable WAN22_REDIS_PASSWORD of the same container, if there is one.
Usage: {{ include "wan22.redisUrl" . }}
*/}}
{{- define "wan22.redisUrl" -}}
{{- $password := include "wan22.redisSecret" . | empty | ternary "" ":$(WAN22_REDIS_PASSWORD)@" -}}
{{- printf "rediss://%s%s:%s/0" $password (include "wan22.redisHost" .) (include "wan22.redisPort" .) -}}
{{- end }}

{{/*
Secret with the password of Redis; empty for an external Redis without one.
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
