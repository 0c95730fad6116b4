{{/*
Security context of a pod: podSecurityContext, which reaches every pod. A pod whose image has other ids (`id`) uses them
in place of those that podSecurityContext has, and never inherits root; `given` takes precedence over both.
Usage: {{- include "wan22.podSecurity" (dict "root" . "id" 65532 "given" .Values.operator.podSecurityContext) | nindent 8 }}
*/}}
{{- define "wan22.podSecurity" -}}
{{- $context := dict -}}
{{- range $key, $value := .root.Values.podSecurityContext | default dict -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $context $key $value -}}
{{- end -}}
{{- end -}}
{{- if .id -}}
{{- range list "runAsUser" "runAsGroup" "fsGroup" -}}
{{- if hasKey $context . -}}
{{- $_ := set $context . $.id -}}
{{- end -}}
{{- end -}}
{{- if hasKey $context "runAsNonRoot" -}}
{{- $_ := set $context "runAsNonRoot" true -}}
{{- end -}}
{{- end -}}
{{- $context = mergeOverwrite $context (.given | default dict | deepCopy) -}}
{{- /* A kubelet starts no pod that is root and must not be. */}}
{{- if and (hasKey $context "runAsUser") (eq (int $context.runAsUser) 0) -}}
{{- $_ := set $context "runAsNonRoot" false -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}

{{/*
Security context of a container: containerSecurityContext, which reaches every container, with what this one adds.
KubeRay copies it to the init container that it adds to Ray pods.
Usage: {{- include "wan22.containerSecurity" (dict "root" . "readOnly" true "given" dict "capabilities" list) | nindent 12 }}
*/}}
{{- define "wan22.containerSecurity" -}}
{{- $context := .root.Values.containerSecurityContext | default dict | deepCopy -}}
{{- if .readOnly -}}
{{- $_ := set $context "readOnlyRootFilesystem" true -}}
{{- end -}}
{{- $context = mergeOverwrite $context (.given | default dict | deepCopy) -}}
{{- with .capabilities -}}
{{- $capabilities := $context.capabilities | default dict -}}
{{- $_ := set $context "capabilities" (set $capabilities "add" (concat ($capabilities.add | default list) . | uniq)) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}
