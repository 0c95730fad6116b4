{{/*
Environment of the app. It holds nothing that changes with the worker count: KubeRay builds a new cluster when a pod's
environment changes. KubeRay itself gives the head REDIS_USERNAME and REDIS_PASSWORD for Ray's state, and refuses them
here.
Usage: {{- include "wan22.env" (dict "root" . "head" true "group" .Values.head) | nindent 4 }}
*/}}
{{- define "wan22.env" -}}
{{- $own := include "wan22.ownEnv" . | fromYamlArray -}}
{{- include "wan22.keyed" (dict "key" "name" "own" $own "given" .root.Values.extraEnv) -}}
{{- end }}

{{- define "wan22.ownEnv" -}}
{{- $values := .root.Values -}}
{{- $secret := include "wan22.redisSecret" .root -}}
- name: MODEL_PATH
  value: {{ $values.model.path | quote }}
- name: STORAGE_URI
  value: {{ $values.storage.uri | quote }}
- name: REDIS_HOST
  value: {{ include "wan22.redisHost" .root | quote }}
- name: REDIS_PORT
  value: {{ include "wan22.redisPort" .root | quote }}
{{- if and $secret (not (and .head $values.ray.gcsFaultTolerance)) }}
- name: REDIS_PASSWORD
  {{- include "wan22.redisPasswordSource" .root | nindent 2 }}
{{- end }}
{{- if not $values.redis.enabled }}
{{- with $values.redis.external }}
{{- if and .username (not (and $.head $values.ray.gcsFaultTolerance)) }}
- name: REDIS_USERNAME
  value: {{ .username | quote }}
{{- end }}
{{- if .database }}
- name: REDIS_DATABASE
  value: {{ .database | quote }}
{{- end }}
{{- if .tls }}
- name: REDIS_TLS
  value: "true"
{{- end }}
{{- if .caSecret }}
- name: REDIS_CA_FILE
  value: {{ include "wan22.redisCaFile" $.root | quote }}
- name: RAY_REDIS_CA_CERT
  value: {{ include "wan22.redisCaFile" $.root | quote }}
{{- end }}
{{- end }}
{{- end }}
- name: REDIS_PREFIX
  value: {{ include "wan22.redisPrefix" .root | quote }}
- name: WAN22_RELEASE
  value: {{ printf "%s/%s" .root.Release.Namespace (include "wan22.base" .root) | quote }}
- name: HF_HOME
  value: /cache/huggingface
{{- with $values.model.hubToken }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with $values.nccl.socketIfname }}
- name: NCCL_SOCKET_IFNAME
  value: {{ . | quote }}
- name: GLOO_SOCKET_IFNAME
  value: {{ . | quote }}
{{- end }}
{{- with $values.nccl.ibHca }}
- name: NCCL_IB_HCA
  value: {{ . | quote }}
{{- end }}
{{- /* From SIGTERM on, `ray start` drains its own Ray node for as long. */}}
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: {{ .group.drainSeconds | quote }}
{{- end }}

{{/*
ConfigMaps and Secrets whose keys become environment.
Usage: {{- include "wan22.envFrom" . | nindent 2 }}
*/}}
{{- define "wan22.envFrom" -}}
{{- if or .Values.storage.existingSecret .Values.extraEnvFrom }}
envFrom:
  {{- with .Values.storage.existingSecret }}
  - secretRef:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
