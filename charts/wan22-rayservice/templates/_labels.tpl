{{/*
Labels of an object. Not for pod templates of the Ray cluster: a label that changes with the chart's version would make
KubeRay build a new cluster.
commonLabels and `given` take precedence over all but those that select.
Usage: {{ include "wan22.labels" (dict "root" . "component" "redis" "given" .Values.operator.podLabels) }}
*/}}
{{- define "wan22.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
-}}
{{- merge (include "wan22.selectorLabels" . | fromYaml) (.given | default dict) (.root.Values.commonLabels | default dict) $own | toYaml -}}
{{- end }}

{{/*
Labels that select the pods of a component; they never change.
Usage: {{ include "wan22.selectorLabels" (dict "root" . "component" "redis") }}
*/}}
{{- define "wan22.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/*
Labels that select Ray pods. The name is KubeRay's own: its Service for the head of a RayService selects by it.
Usage: {{ include "wan22.raySelectorLabels" (dict "root" . "component" "ray-head") }}
*/}}
{{- define "wan22.raySelectorLabels" -}}
app.kubernetes.io/name: kuberay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}
