{{/*
Metadata of the RayService or RayCluster: the label by which the operator selects it, the counts that the chart asks for
and, if they are known, the model's attention heads, by which the operator recognises a count without a plan.
Usage: {{- include "wan22.clusterMetadata" (dict "root" . "annotations" dict) | nindent 2 }}
*/}}
{{- define "wan22.clusterMetadata" -}}
{{- $annotations := .annotations -}}
{{- with .root -}}
{{- $declared := dict "totalWorkers" (int .Values.totalWorkers) "gangs" (int .Values.gangs) -}}
{{- with include "wan22.attentionHeads" . -}}
{{- $_ := set $declared "attentionHeads" (int .) -}}
{{- end -}}
name: {{ include "wan22.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "wan22.labels" (dict "root" . "component" "ray") | nindent 2 }}
  {{- if .Values.app.deploy }}
  wan22.dev/managed: "true"
  {{- if .Values.operator.enabled }}
  # Another release's operator, in this namespace or for all of them, leaves it alone.
  wan22.dev/operator: {{ include "wan22.operatorName" . }}
  {{- end }}
  {{- end }}
annotations:
  wan22.dev/declared: {{ $declared | toJson | quote }}
  {{- if include "wan22.operatorKeepsBudget" . }}
  wan22.dev/disruption-budget: {{ include "wan22.base" . }}-workers
  {{- end }}
  {{- range $key, $value := $annotations }}
  {{ $key }}: {{ $value }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Seconds that a RayService's old cluster drains after an upgrade: as set, else the longest task and a minute.
Usage: {{ include "wan22.clusterDeletionDelay" . }}
*/}}
{{- define "wan22.clusterDeletionDelay" -}}
{{- $given := .Values.ray.clusterDeletionDelaySeconds -}}
{{- if kindIs "invalid" $given -}}
{{- addf (ceil .Values.app.maxTaskSeconds) 60 | int -}}
{{- else -}}
{{- int $given -}}
{{- end -}}
{{- end }}

{{/*
A RayCluster's spec. APIEntrypoint runs in every worker pod, so the head offers no CPUs.
Usage: {{- include "wan22.clusterSpec" . | nindent 4 }}
*/}}
{{- define "wan22.clusterSpec" -}}
rayVersion: {{ .Values.ray.version | quote }}
enableInTreeAutoscaling: false
{{- /* False is written out: without the field KubeRay leaves a suspended cluster suspended. */}}
suspend: {{ .Values.ray.suspend }}
{{- if .Values.ray.auth.enabled }}
authOptions:
  mode: token
  secretName: {{ include "wan22.raySecret" . }}
{{- end }}
{{- if .Values.ray.gcsFaultTolerance }}
gcsFaultToleranceOptions:
  redisAddress: {{ include "wan22.redisAddress" . | quote }}
  {{- if not .Values.redis.enabled }}
  {{- with .Values.redis.external.username }}
  redisUsername:
    value: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- if include "wan22.redisSecret" . }}
  redisPassword:
    {{- include "wan22.redisPasswordSource" . | nindent 4 }}
  {{- end }}
{{- end }}
headGroupSpec:
  rayStartParams:
    {{- merge (dict "num-cpus" "0" "num-gpus" "0") (.Values.head.rayStartParams | default dict) (dict "dashboard-host" "0.0.0.0") | toYaml | nindent 4 }}
  template:
    {{- include "wan22.rayPod" (dict "root" . "name" "ray-head" "group" .Values.head "resources" .Values.head.resources) | nindent 4 }}
workerGroupSpecs:
  - groupName: gpu-workers
    {{- $pods := include "wan22.pods" . }}
    replicas: {{ $pods }}
    minReplicas: {{ $pods }}
    maxReplicas: {{ $pods }}
    # These two are written out as KubeRay would: if it fills them in, it becomes the author of the whole list, and
    # Helm's next upgrade conflicts with it.
    numOfHosts: 1
    scaleStrategy: {}
    rayStartParams: {{ .Values.worker.rayStartParams | default dict | toJson }}
    template:
      {{- include "wan22.rayPod" (dict "root" . "name" "ray-worker" "group" .Values.worker "resources" (include "wan22.workerResources" . | fromYaml)) | nindent 6 }}
{{- end }}

{{/*
Resources of a worker pod: CPU and memory, its GPUs and RDMA adapters.
Usage: {{ include "wan22.workerResources" . | fromYaml }}
*/}}
{{- define "wan22.workerResources" -}}
{{- $devices := dict -}}
{{- if .Values.gpusPerWorker }}
{{- $_ := set $devices .Values.gpuResource (int .Values.gpusPerWorker | toString) -}}
{{- end }}
{{- with .Values.nccl.rdma }}
{{- if .resource }}
{{- $_ := set $devices .resource (int .count | toString) -}}
{{- end }}
{{- end }}
{{- $limits := dict "cpu" (int .Values.worker.resources.limits.cpu | toString) "memory" .Values.worker.resources.limits.memory -}}
limits:
  {{- merge dict $devices $limits | toYaml | nindent 2 }}
requests:
  {{- merge dict $devices (.Values.worker.resources.requests | default dict) $limits | toYaml | nindent 2 }}
{{- end }}
