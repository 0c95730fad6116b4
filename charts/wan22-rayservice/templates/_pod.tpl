{{/*
A Ray pod: what head and workers share. Its labels never change with the chart's version (see _labels.tpl).
Usage: {{- include "wan22.rayPod" (dict "root" . "name" "ray-head" "group" .Values.head "resources" .Values.head.resources) | nindent 4 }}
*/}}
{{- define "wan22.rayPod" -}}
{{- $values := .root.Values -}}
{{- $head := eq .name "ray-head" -}}
{{- $pod := dict "root" .root "group" .group "head" $head -}}
metadata:
  labels:
    {{- include "wan22.raySelectorLabels" (dict "root" .root "component" .name) | nindent 4 }}
  {{- with .group.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "wan22.serviceAccountName" .root }}
  automountServiceAccountToken: false
  {{- with include "wan22.imagePullSecrets" .root }}
  {{- . | trim | nindent 2 }}
  {{- end }}
  securityContext:
    {{- include "wan22.podSecurity" (dict "root" .root) | nindent 4 }}
  terminationGracePeriodSeconds: {{ int .group.terminationGracePeriodSeconds }}
  {{- if and (not $head) $values.nccl.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "wan22.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      ports:
        {{- if $head }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
        - {name: serve, containerPort: 8000}
        - {name: metrics, containerPort: 8080}
      env:
        {{- include "wan22.env" $pod | nindent 8 }}
      {{- with include "wan22.envFrom" .root }}
      {{- . | trim | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        {{- $ipcLock := and (not $head) $values.nccl.ipcLock }}
        {{- include "wan22.containerSecurity" (dict "root" .root "capabilities" ($ipcLock | ternary (list "IPC_LOCK") list)) | nindent 8 }}
      volumeMounts:
        {{- include "wan22.volumeMounts" $pod | nindent 8 }}
  volumes:
    {{- include "wan22.volumes" $pod | nindent 4 }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .group.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
{{- end }}
