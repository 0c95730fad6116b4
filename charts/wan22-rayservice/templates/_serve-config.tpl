{{/*
serveConfigV2, from the same text that serve_config renders: every marker is replaced by a JSON value.
Usage: {{ include "wan22.serveConfig" . }}
*/}}
{{- define "wan22.serveConfig" -}}
{{- $text := .Files.Get "files/serve-config.json.tmpl" -}}
{{- if not $text -}}
{{- fail "files/serve-config.json.tmpl is missing from the chart; package it with `helm package`, which follows its link" -}}
{{- end -}}
{{- $app := .Values.app -}}
{{- $heads := include "wan22.attentionHeads" . -}}
{{- $values := dict
  "api_cpus" $app.apiCpus
  "attention_backend" $app.attentionBackend
  "attention_heads" (empty $heads | ternary nil (int $heads))
  "compile_blocks" $app.compileBlocks
  "device" (include "wan22.device" .)
  "fp8_linear" $app.fp8Linear
  "gangs" (int .Values.gangs)
  "leader_cpus" $app.leaderCpus
  "lease_seconds" $app.leaseSeconds
  "max_queued_tasks" (int $app.maxQueuedTasks)
  "max_task_seconds" $app.maxTaskSeconds
  "offload_weights" $app.offloadWeights
  "pods" (include "wan22.pods" . | int)
  "rank_cpus" (divf (include "wan22.rankMilli" . | int) 1000.0)
  "rank_timeout_seconds" $app.rankTimeoutSeconds
  "resize_timeout_seconds" $app.resizeTimeoutSeconds
  "step_cache" $app.stepCache
  "step_cache_interval" (int $app.stepCacheInterval)
  "step_cache_warm_up" (int $app.stepCacheWarmUp)
  "step_timeout_seconds" $app.stepTimeoutSeconds
  "load_timeout_seconds" $app.loadTimeoutSeconds
  "task_ttl_seconds" $app.taskTtlSeconds
  "total_workers" (int .Values.totalWorkers)
-}}
{{- range $name, $value := $values -}}
{{- $text = replace (printf "@{%s}@" $name) (toRawJson $value) $text -}}
{{- end -}}
{{- $text -}}
{{- end }}
