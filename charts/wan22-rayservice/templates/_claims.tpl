{{/*
Bytes of a Kubernetes quantity, as a number; its text if it is none.
Usage: {{ include "wan22.bytes" "8Gi" }}
*/}}
{{- define "wan22.bytes" -}}
{{- $text := toString . -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- if and $number (hasKey $units $unit) -}}
{{- mulf (float64 $number) (get $units $unit) -}}
{{- else -}}
{{- $text -}}
{{- end -}}
{{- end }}

{{/*
Rules for claims that exist: the API server lets nobody change what a claim asks for, except for a larger size, and
nothing of a StatefulSet's claims. It would refuse one object in the middle of an upgrade, so it is said before.
Without a cluster (helm template) there is nothing to compare.
Usage: {{- include "wan22.validateClaims" . }}
*/}}
{{- define "wan22.validateClaims" -}}
{{- $space := .Release.Namespace -}}
{{- with .Values.redis -}}
{{- if .enabled -}}
{{- $name := include "wan22.redisHost" $ -}}
{{- $claim := printf "data-%s-0" $name -}}
{{- $found := lookup "apps/v1" "StatefulSet" $space $name -}}
{{- if $found -}}
{{- $had := dig "spec" "volumeClaimTemplates" list $found -}}
{{- $again := printf "kubectl -n %s delete statefulset %s --cascade=orphan" $space $name -}}
{{- $lost := printf "kubectl -n %s delete statefulset/%s pvc/%s" $space $name $claim -}}
{{- if ne (empty $had) (not .persistence.enabled) -}}
{{- fail (printf "redis.persistence.enabled: %t, but the StatefulSet %s was made with %t, and Kubernetes changes no StatefulSet's claims; nothing was changed. Set it back; or, if its tasks may be lost, run `kubectl -n %s delete statefulset %s` and upgrade again" .persistence.enabled $name (not (empty $had)) $space $name) -}}
{{- end -}}
{{- if $had -}}
{{- $spec := (first $had).spec -}}
{{- $size := dig "resources" "requests" "storage" "" $spec | toString -}}
{{- $new := include "wan22.bytes" .persistence.size -}}
{{- $old := include "wan22.bytes" $size -}}
{{- if gt (float64 $new) (float64 $old) -}}
{{- $patch := printf "{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}" .persistence.size -}}
{{- fail (printf "redis.persistence.size: %s, but the StatefulSet %s was made with %s, and Kubernetes changes no StatefulSet's claims; nothing was changed. Enlarge the claim yourself (its storage class must allow it), let go of the StatefulSet without its pod, and upgrade again: `kubectl -n %s patch pvc %s --type=merge -p '%s'` and `%s`. Or set it back to %s" .persistence.size $name $size $space $claim $patch $again $size) -}}
{{- else if ne $new $old -}}
{{- fail (printf "redis.persistence.size: %s, but the StatefulSet %s was made with %s, and no claim shrinks; nothing was changed. Set it back to %s; or, if its tasks may be lost, run `%s` and upgrade again" .persistence.size $name $size $size $lost) -}}
{{- end -}}
{{- $class := dig "storageClassName" "" $spec -}}
{{- if ne $class .persistence.storageClass -}}
{{- fail (printf "redis.persistence.storageClass: %q, but the StatefulSet %s was made with %q, and a claim keeps its class; nothing was changed. Set it back to %q; or, if its tasks may be lost, run `%s` and upgrade again" .persistence.storageClass $name $class $class $lost) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $persistence := .Values.storage.persistence -}}
{{- if and (include "wan22.videosClaimed" .) (not $persistence.existingClaim) -}}
{{- $name := include "wan22.videosClaim" . -}}
{{- with dig "spec" dict (lookup "v1" "PersistentVolumeClaim" $space $name) -}}
{{- $remedy := printf "make another claim, copy the videos and name it in storage.persistence.existingClaim (set storage.persistence.keep to true before, so that %s stays)" $name -}}
{{- $size := dig "resources" "requests" "storage" "" . | toString -}}
{{- if lt (include "wan22.bytes" $persistence.size | float64) (include "wan22.bytes" $size | float64) -}}
{{- fail (printf "storage.persistence.size: %s, but the claim %s has %s, and no claim shrinks; nothing was changed. Set it back to %s; or %s" $persistence.size $name $size $size $remedy) -}}
{{- end -}}
{{- $class := dig "storageClassName" "" . -}}
{{- if and $persistence.storageClass (ne $class $persistence.storageClass) -}}
{{- fail (printf "storage.persistence.storageClass: %s, but the claim %s has %q, and a claim keeps its class; nothing was changed. Set it back; or %s" $persistence.storageClass $name $class $remedy) -}}
{{- end -}}
{{- if ne (.accessModes | default list | sortAlpha | join ", ") ($persistence.accessModes | sortAlpha | join ", ") -}}
{{- fail (printf "storage.persistence.accessModes: %s, but the claim %s has %s, and a claim keeps its modes; nothing was changed. Set it back; or %s" (join ", " $persistence.accessModes) $name (join ", " .accessModes) $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
