{{/*
"true" if a Job deploys the application: on a RayCluster that no operator follows.
Usage: {{ if include "wan22.deployJob" . }}
*/}}
{{- define "wan22.deployJob" -}}
{{- if and (eq .Values.kind "RayCluster") .Values.app.deploy (not .Values.operator.enabled) }}true{{ end -}}
{{- end }}

{{/*
Spec of that Job.
Usage: {{- include "wan22.deployJobSpec" . | nindent 2 }}
*/}}
{{- define "wan22.deployJobSpec" -}}
backoffLimit: 3
template:
  metadata:
    {{- include "wan22.jobPodMetadata" (dict "root" . "component" "deploy") | nindent 4 }}
  spec:
    {{- include "wan22.jobPod" . | nindent 4 }}
    automountServiceAccountToken: false
    securityContext:
      {{- include "wan22.podSecurity" (dict "root" .) | nindent 6 }}
    containers:
      - name: deploy
        image: {{ include "wan22.image" . }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [python, /scripts/deploy.py]
        env:
          - name: RAY_DASHBOARD_URL
            value: http://{{ include "wan22.fullname" . }}-head-svc:8265
          - name: SERVE_CONFIG
            value: /serve-config/serveConfigV2
          {{- if .Values.ray.auth.enabled }}
          - name: RAY_AUTH_TOKEN
            valueFrom:
              secretKeyRef:
                name: {{ include "wan22.raySecret" . }}
                key: auth_token
          {{- end }}
        resources:
          {{- toYaml .Values.jobs.resources | nindent 10 }}
        securityContext:
          {{- include "wan22.containerSecurity" (dict "root" .) | nindent 10 }}
        volumeMounts:
          - {name: scripts, mountPath: /scripts}
          - {name: serve-config, mountPath: /serve-config}
    volumes:
      - name: scripts
        configMap:
          name: {{ include "wan22.base" . }}-deploy
      - name: serve-config
        configMap:
          name: {{ include "wan22.base" . }}-serve-config
{{- end }}
