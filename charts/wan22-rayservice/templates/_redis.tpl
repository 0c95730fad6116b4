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
What begins every key in Redis. The chart's own Redis has one release; on an external one each release has its own keys.
Usage: {{ include "wan22.redisPrefix" . }}
*/}}
{{- define "wan22.redisPrefix" -}}
{{- $own := .Values.redis.enabled | ternary "wan22:" (printf "wan22:%s/%s:" .Release.Namespace (include "wan22.base" .)) -}}
{{- .Values.redis.keyPrefix | default $own -}}
{{- end }}

{{/*
File of the certificate authority of an external Redis, in every Ray pod.
Usage: {{ include "wan22.redisCaFile" . }}
*/}}
{{- define "wan22.redisCaFile" -}}
{{- printf "/etc/wan22/redis-ca/%s" .Values.redis.external.caKey -}}
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

{{/*
Bytes that the chart's Redis may use for keys: 60 % of its pod's memory limit, since rewriting the append-only file
needs memory, too. Empty without a limit.
Usage: {{ include "wan22.redisMaxMemory" . }}
*/}}
{{- define "wan22.redisMaxMemory" -}}
{{- $limit := dig "limits" "memory" "" (.Values.redis.resources | default dict) | toString -}}
{{- if $limit -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "(k|M|G|T|Ki|Mi|Gi|Ti)$" $limit -}}
{{- mulf (trimSuffix $unit $limit | float64) (get $units $unit) 0.6 | floor | int64 -}}
{{- end -}}
{{- end }}
