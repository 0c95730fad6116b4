{{/*
A list of the chart with the entries that the user gives. The API keys such lists by a field, and refuses two entries of
one key: the user's entry takes the place of the chart's, and the last one of a key wins.
Usage: {{- include "wan22.keyed" (dict "key" "name" "own" $own "given" .Values.extraEnv) | nindent 8 }}
*/}}
{{- define "wan22.keyed" -}}
{{- $key := .key -}}
{{- $kept := list -}}
{{- $taken := list -}}
{{- range reverse (concat .own (.given | default list)) -}}
{{- $name := get . $key | toString -}}
{{- if gt (len $name) 1 -}}
{{- $name = trimSuffix "/" $name -}}
{{- end -}}
{{- if not (has $name $taken) -}}
{{- $taken = append $taken $name -}}
{{- $kept = prepend $kept . -}}
{{- end -}}
{{- end -}}
{{- with $kept -}}
{{- toYaml . -}}
{{- end -}}
{{- end }}
