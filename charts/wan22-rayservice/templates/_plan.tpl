{{/*
Attention heads of the model, or nothing if they are not known beforehand.
Usage: {{ include "wan22.attentionHeads" . }}
*/}}
{{- define "wan22.attentionHeads" -}}
{{- if .Values.model.attentionHeads -}}
{{- int .Values.model.attentionHeads -}}
{{- else if contains "A14B" .Values.model.path -}}
40
{{- else if regexMatch "(^|[^0-9])5B" .Values.model.path -}}
24
{{- end -}}
{{- end }}

{{/*
Gang sizes with a plan for some heads, as a JSON list: CFG 1 or 2 times a Ulysses degree that divides the heads.
Usage: {{ include "wan22.allowedCounts" 40 }}
*/}}
{{- define "wan22.allowedCounts" -}}
{{- $heads := int . -}}
{{- $counts := list -}}
{{- range $count := untilStep 1 81 1 -}}
{{- if or (eq (mod $heads $count) 0) (and (eq (mod $count 2) 0) (eq (mod $heads (div $count 2)) 0)) -}}
{{- $counts = append $counts $count -}}
{{- end -}}
{{- end -}}
{{- toJson $counts -}}
{{- end }}

{{/*
Ranks that a worker pod holds: one per GPU, or one on a pod without.
Usage: {{ include "wan22.ranksPerPod" . }}
*/}}
{{- define "wan22.ranksPerPod" -}}
{{- max 1 (int .Values.gpusPerWorker) -}}
{{- end }}

{{/*
Worker pods: a gang larger than a pod has pods of its own, small gangs share a pod, and none is split over two.
Usage: {{ include "wan22.pods" . }}
*/}}
{{- define "wan22.pods" -}}
{{- $each := include "wan22.ranksPerPod" . | int -}}
{{- $ranks := int .Values.totalWorkers -}}
{{- $gangs := int .Values.gangs -}}
{{- if ge $ranks $each -}}
{{- mul $gangs (div (sub (add $ranks $each) 1) $each) -}}
{{- else -}}
{{- $share := div $each $ranks -}}
{{- div (sub (add $gangs $share) 1) $share -}}
{{- end -}}
{{- end }}

{{/*
What a rank computes on.
Usage: {{ include "wan22.device" . }}
*/}}
{{- define "wan22.device" -}}
{{- .Values.device | default (gt (int .Values.gpusPerWorker) 0 | ternary "cuda" "cpu") -}}
{{- end }}

{{/*
Thousandths of a CPU.
Usage: {{ include "wan22.milli" 0.25 }}
*/}}
{{- define "wan22.milli" -}}
{{- round (mulf . 1000.0) 0 | int -}}
{{- end }}

{{/*
Thousandths of a CPU that a rank reserves.
Usage: {{ include "wan22.rankMilli" . }}
*/}}
{{- define "wan22.rankMilli" -}}
{{- if .Values.app.rankCpus -}}
{{- include "wan22.milli" .Values.app.rankCpus -}}
{{- else if eq (include "wan22.device" .) "cuda" -}}
250
{{- else -}}
{{- $free := sub (mul 1000 (int .Values.worker.resources.limits.cpu)) (include "wan22.milli" .Values.app.apiCpus | int) -}}
{{- sub (div $free (include "wan22.ranksPerPod" . | int)) (include "wan22.milli" .Values.app.leaderCpus | int) -}}
{{- end -}}
{{- end }}
