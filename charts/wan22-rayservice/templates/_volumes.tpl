{{/*
"true" if videos are stored on the claim.
Usage: {{ if include "wan22.videosClaimed" . }}
*/}}
{{- define "wan22.videosClaimed" -}}
{{- if and (hasPrefix "file://" .Values.storage.uri) .Values.storage.persistence.enabled }}true{{ end -}}
{{- end }}

{{/*
Claim of the videos.
Usage: {{ include "wan22.videosClaim" . }}
*/}}
{{- define "wan22.videosClaim" -}}
{{- .Values.storage.persistence.existingClaim | default (printf "%s-videos" (include "wan22.base" .)) -}}
{{- end }}

{{/*
Volumes of a Ray pod.
Usage: {{- include "wan22.volumes" (dict "root" . "group" .Values.head) | nindent 2 }}
*/}}
{{- define "wan22.volumes" -}}
{{- $own := include "wan22.ownVolumes" . | fromYamlArray -}}
{{- include "wan22.keyed" (dict "key" "name" "own" $own "given" .root.Values.extraVolumes) -}}
{{- end }}

{{- define "wan22.ownVolumes" -}}
- name: cache
  emptyDir: {}
{{- with .group.shmSize }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end }}
{{- with .root.Values.model.existingClaim }}
- name: model
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- if include "wan22.videosClaimed" .root }}
- name: videos
  persistentVolumeClaim:
    claimName: {{ include "wan22.videosClaim" .root }}
{{- end }}
{{- if not .root.Values.redis.enabled }}
{{- with .root.Values.redis.external.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Mounts of these volumes.
Usage: {{- include "wan22.volumeMounts" (dict "root" . "group" .Values.head) | nindent 2 }}
*/}}
{{- define "wan22.volumeMounts" -}}
{{- $own := include "wan22.ownVolumeMounts" . | fromYamlArray -}}
{{- include "wan22.keyed" (dict "key" "mountPath" "own" $own "given" .root.Values.extraVolumeMounts) -}}
{{- end }}

{{- define "wan22.ownVolumeMounts" -}}
- name: cache
  mountPath: /cache
{{- if .group.shmSize }}
- name: shm
  mountPath: /dev/shm
{{- end }}
{{- if .root.Values.model.existingClaim }}
- name: model
  mountPath: {{ .root.Values.model.mountPath }}
  readOnly: true
{{- end }}
{{- if include "wan22.videosClaimed" .root }}
- name: videos
  mountPath: {{ .root.Values.storage.mountPath }}
{{- end }}
{{- if and (not .root.Values.redis.enabled) .root.Values.redis.external.caSecret }}
- name: redis-ca
  mountPath: {{ dir (include "wan22.redisCaFile" .root) }}
  readOnly: true
{{- end }}
{{- end }}
