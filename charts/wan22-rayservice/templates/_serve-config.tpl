{{/*
serveConfigV2, from the same template that serve_config fills in: every marker is replaced by a JSON value. A marker
@{app.<key>}@ is a value of `app`, except for the arguments that the chart computes.
Usage: {{ include "wan22.serveConfig" . }}
*/}}
{{- define "wan22.serveConfig" -}}
{{- $text := .Files.Get "files/serve-config.json.tmpl" -}}
{{- if not $text -}}
{{- fail "files/serve-config.json.tmpl is missing from the chart; run python charts/generate.py, or get the whole chart" -}}
{{- end -}}
{{- $heads := include "wan22.attentionHeads" . -}}
{{- $computed := dict
  "attentionHeads" (empty $heads | ternary nil (int $heads))
  "device" (include "wan22.device" .)
  "rankCpus" (divf (include "wan22.rankMilli" . | int) 1000.0)
-}}
{{- range $key, $value := merge $computed .Values.app -}}
{{- $text = replace (printf "@{app.%s}@" $key) (toRawJson $value) $text -}}
{{- end -}}
{{- $counts := dict
  "totalWorkers" (int .Values.totalWorkers)
  "gangs" (int .Values.gangs)
  "pods" (include "wan22.pods" . | int)
-}}
{{- range $key, $value := $counts -}}
{{- $text = replace (printf "@{%s}@" $key) (toRawJson $value) $text -}}
{{- end -}}
{{- with regexFind "@\\{[^}]*\\}@" $text -}}
{{- fail (printf "%s: null or missing; give it a value (its default is in values.yaml), or upgrade with --reset-then-reuse-values instead of --reuse-values" (. | trimPrefix "@{" | trimSuffix "}@")) -}}
{{- end -}}
{{- $text -}}
{{- end }}
