{{/*
Rules between fields, which values.schema.json cannot express. Each message names the field, the value and the remedy.
Usage: {{- include "wan22.validate" . }}
*/}}
{{- define "wan22.validate" -}}
{{- include "wan22.validateKeys" . -}}
{{- include "wan22.validatePlan" . -}}
{{- include "wan22.validateCpus" . -}}
{{- include "wan22.validateRedis" . -}}
{{- include "wan22.validateModel" . -}}
{{- include "wan22.validateStorage" . -}}
{{- include "wan22.validateClaims" . -}}
{{- include "wan22.validateLists" . -}}
{{- include "wan22.validateCluster" . -}}
{{- end }}

{{- define "wan22.validateKeys" -}}
{{- $groups := list "image" "app" "model" "model.hubToken" "storage" "storage.persistence" "redis" "redis.image"
  "redis.external" "redis.persistence" "ray" "ray.auth" "head" "worker" "worker.resources" "worker.resources.limits"
  "nccl" "nccl.rdma" "jobs" "serviceAccount" "ingress" "networkPolicy" "podDisruptionBudget" "podMonitor"
  "uninstall" "smokeTest" "operator" "operator.image" "operator.podDisruptionBudget" "operator.serviceAccount"
  "webhook" -}}
{{- range $path := $groups -}}
{{- $place := $.Values -}}
{{- range splitList "." $path -}}
{{- $place = kindIs "map" $place | ternary (get ($place | default dict) .) "" -}}
{{- end -}}
{{- if not (kindIs "map" $place) -}}
{{- fail (printf "%s: null or missing, but the chart needs it; leave it out of your values to have its defaults, or upgrade with --reset-then-reuse-values instead of --reuse-values" $path) -}}
{{- end -}}
{{- end -}}
{{- range $path, $successor := .Files.Get "files/removed-values.yaml" | fromYaml -}}
{{- $place := $.Values -}}
{{- range splitList "." $path -}}
{{- $place = kindIs "map" $place | ternary (get ($place | default dict) .) "" -}}
{{- end -}}
{{- if not (empty $place) -}}
{{- fail (printf "%s: %v, but this chart has no such value; set %s instead and remove %s. `helm upgrade --reuse-values` brings values of the chart before: use --reset-then-reuse-values" $path $place $successor $path) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "wan22.validatePlan" -}}
{{- $heads := include "wan22.attentionHeads" . -}}
{{- if $heads -}}
{{- $allowed := include "wan22.allowedCounts" (int $heads) | fromJsonArray -}}
{{- if not (has (float64 .Values.totalWorkers) $allowed) -}}
{{- fail (printf "totalWorkers: %d ranks have no parallel plan for a model with %s attention heads (model.path %s); use one of %s" (int .Values.totalWorkers) $heads .Values.model.path (join ", " $allowed)) -}}
{{- end -}}
{{- end -}}
{{- $resource := .Values.gpuResource -}}
{{- if and .Values.gpusPerWorker (not (or (hasSuffix "gpu" $resource) (regexMatch "nvidia\\.com/mig-\\d+g\\.\\d+gb$" $resource))) -}}
{{- fail (printf "gpuResource: KubeRay counts %s as no GPU for Ray, only names that end in gpu and nvidia.com/mig-<N>g.<M>gb; offer the GPUs under such a name (a shared GPU keeps the name nvidia.com/gpu if the device plugin's renameByDefault is false)" $resource) -}}
{{- end -}}
{{- if and (eq .Values.device "cuda") (not .Values.gpusPerWorker) -}}
{{- fail "device: cuda needs a GPU per rank, but gpusPerWorker is 0; set gpusPerWorker to the GPUs of a worker pod, or leave device out" -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateCpus" -}}
{{- $app := .Values.app -}}
{{- $cpu := int .Values.worker.resources.limits.cpu -}}
{{- $pod := mul 1000 $cpu -}}
{{- $ranks := include "wan22.ranksPerPod" . | int -}}
{{- $api := include "wan22.milli" $app.apiCpus | int -}}
{{- $leader := include "wan22.milli" $app.leaderCpus | int -}}
{{- $rank := include "wan22.rankMilli" . | int -}}
{{- $need := add $api (mul $ranks (add $leader $rank)) -}}
{{- $onCpu := eq (include "wan22.device" .) "cpu" -}}
{{- $crowded := and $onCpu (le (mul (add $ranks 1) $rank) $pod) -}}
{{- if and $crowded (not $app.rankCpus) -}}
{{- $least := mul (add $ranks 1) (add $api (mul $ranks $leader)) -}}
{{- fail (printf "worker.resources.limits.cpu: %d CPUs are too few for a CPU worker pod with %d rank(s), APIEntrypoint (%v) and a leader (%v) per rank; set it to %d or more, or lower app.apiCpus or app.leaderCpus" $cpu $ranks $app.apiCpus $app.leaderCpus (add (div $least 1000) 1)) -}}
{{- end -}}
{{- if gt $need $pod -}}
{{- fail (printf "worker.resources.limits.cpu: a worker pod has %d CPUs but needs %v: APIEntrypoint %v + %d x (leader %v + rank %v); set it to %d or more, or lower app.apiCpus, app.leaderCpus, app.rankCpus or gpusPerWorker" $cpu (divf $need 1000.0) $app.apiCpus $ranks $app.leaderCpus (divf $rank 1000.0) (div (add $need 999) 1000)) -}}
{{- end -}}
{{- if $crowded -}}
{{- fail (printf "app.rankCpus: %v lets more than %d rank(s) into a worker pod of %d CPUs, so that APIEntrypoint may find none; leave it out, so that it follows the pod" (divf $rank 1000.0) $ranks $cpu) -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateRedis" -}}
{{- if and (not .Values.redis.enabled) (not .Values.redis.external.host) -}}
{{- fail "redis.external.host: empty, and redis.enabled is false; set it to the host of an existing Redis, or set redis.enabled to true" -}}
{{- end -}}
{{- if and .Values.redis.enabled .Values.redis.external.host -}}
{{- fail (printf "redis.external.host: %s is set while redis.enabled is true; set redis.enabled to false to use that Redis, or remove redis.external.host" .Values.redis.external.host) -}}
{{- end -}}
{{- if and .Values.redis.external.caSecret (not .Values.redis.external.tls) -}}
{{- fail (printf "redis.external.caSecret: %s is set, but redis.external.tls is false, so that no certificate is checked; set redis.external.tls to true, or remove redis.external.caSecret" .Values.redis.external.caSecret) -}}
{{- end -}}
{{- if and .Values.redis.external.username (not .Values.redis.existingSecret) -}}
{{- fail (printf "redis.external.username: %s is set without a password; set redis.existingSecret to the Secret that holds it" .Values.redis.external.username) -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateModel" -}}
{{- if .Values.model.existingClaim -}}
{{- $mount := trimSuffix "/" .Values.model.mountPath -}}
{{- $used := hasPrefix (printf "%s/" $mount) (printf "%s/" .Values.model.path) -}}
{{- /* The claim may also hold a cache of the hub. */}}
{{- range .Values.extraEnv -}}
{{- if and (has .name (list "HF_HOME" "HF_HUB_CACHE")) (hasPrefix (printf "%s/" $mount) (printf "%s/" (toString .value))) -}}
{{- $used = true -}}
{{- end -}}
{{- end -}}
{{- if not $used -}}
{{- fail (printf "model.path: %s is no folder of the claim %s (model.existingClaim), which is mounted at %s, so that the claim would have no effect; set model.path to the model's folder in it, such as %s/%s, or remove model.existingClaim" .Values.model.path .Values.model.existingClaim $mount $mount (base .Values.model.path)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateStorage" -}}
{{- $claim := .Values.storage.persistence.existingClaim -}}
{{- if and $claim (not (include "wan22.videosClaimed" .)) -}}
{{- fail (printf "storage.persistence.existingClaim: %s is set but would not be mounted, since storage.uri is %s and storage.persistence.enabled is %t; set storage.uri to file://%s with storage.persistence.enabled true, or remove storage.persistence.existingClaim" $claim .Values.storage.uri .Values.storage.persistence.enabled .Values.storage.mountPath) -}}
{{- end -}}
{{- $uri := .Values.storage.uri -}}
{{- if hasPrefix "file://" $uri -}}
{{- $path := trimPrefix "file://" $uri -}}
{{- $mounts := list -}}
{{- range .Values.extraVolumeMounts -}}
{{- $mounts = append $mounts .mountPath -}}
{{- end -}}
{{- if include "wan22.videosClaimed" . -}}
{{- $mounts = append $mounts .Values.storage.mountPath -}}
{{- end -}}
{{- $inside := false -}}
{{- range $mounts -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" .)) (printf "%s/" $path) -}}
{{- $inside = true -}}
{{- end -}}
{{- end -}}
{{- if not $inside -}}
{{- fail (printf "storage.uri: %s lies in no volume that all pods share (mounted: %s); set storage.mountPath to a folder above it with storage.persistence.enabled true, mount a shared volume with extraVolumes and extraVolumeMounts, or use an object store" $uri (join ", " $mounts | default "none")) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateLists" -}}
{{- if .Values.ray.gcsFaultTolerance -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "REDIS_PASSWORD" "REDIS_USERNAME" "RAY_REDIS_ADDRESS") -}}
{{- fail (printf "extraEnv: KubeRay refuses %s in a cluster that keeps Ray's state in Redis; set redis.existingSecret, redis.external.username or redis.external.host instead, or ray.gcsFaultTolerance to false" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $given := dict -}}
{{- range .Values.extraEnv -}}
{{- /* What a value from elsewhere holds is not known here. */}}
{{- $_ := set $given .name (.valueFrom | empty | ternary (toString .value) "localhost") -}}
{{- end -}}
{{- range $proxy, $except := dict "http_proxy" "no_proxy" "HTTP_PROXY" "NO_PROXY" -}}
{{- if and (hasKey $given $proxy) (not (contains "localhost" (get $given $except | default ""))) (ne (get $given $except) "*") -}}
{{- fail (printf "extraEnv: %s is set, but %s does not name localhost (found %q), so that KubeRay's probes and the pods' own calls would go through the proxy; add %s with localhost,127.0.0.1,.svc and the address ranges of pods and Services" $proxy $except (get $given $except | default "") $except) -}}
{{- end -}}
{{- end -}}
{{- $fixed := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "wan22.dev/managed" -}}
{{- range $place, $labels := dict "commonLabels" .Values.commonLabels "operator.podLabels" .Values.operator.podLabels "podMonitor.labels" .Values.podMonitor.labels "jobs.podLabels" .Values.jobs.podLabels -}}
{{- range $fixed -}}
{{- if hasKey ($labels | default dict) . -}}
{{- fail (printf "%s: %s is set by the chart, which selects its objects by it; use another label" $place .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "wan22.validateCluster" -}}
{{- if and .Values.nccl.hostNetwork .Values.networkPolicy.enabled (not .Values.networkPolicy.nodeCidrs) -}}
{{- fail "networkPolicy.nodeCidrs: empty, but nccl.hostNetwork gives worker pods the node's network, which no policy can select by pod; set it to the address ranges of the GPU nodes, such as [10.0.0.0/16], so that workers reach the head and Redis, or set networkPolicy.enabled to false" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" (include "wan22.base" .)) -}}
{{- fail (printf "fullnameOverride: KubeRay needs a name that starts with a letter, but found %s; set fullnameOverride to such a name" (include "wan22.base" .)) -}}
{{- end -}}
{{- if and (eq .Values.kind "RayService") (not .Values.app.deploy) -}}
{{- fail "app.deploy: false, but a RayService always deploys its application; set kind to RayCluster to deploy by hand, or set app.deploy to true" -}}
{{- end -}}
{{- if and .Values.operator.clusterWide .Values.operator.namespaces -}}
{{- fail (printf "operator.namespaces: %s, but operator.clusterWide follows every namespace; set operator.clusterWide to false, or operator.namespaces to an empty list" (join ", " .Values.operator.namespaces)) -}}
{{- end -}}
{{- range $group := list "head" "worker" -}}
{{- $pod := index $.Values $group -}}
{{- if le (int $pod.terminationGracePeriodSeconds) (int $pod.drainSeconds) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds: %d leaves no time after %s.drainSeconds (%d); set it to more than that" $group (int $pod.terminationGracePeriodSeconds) $group (int $pod.drainSeconds)) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "num-cpus" "num-gpus" -}}
{{- range $group := list "head" "worker" -}}
{{- if hasKey ((index $.Values $group).rayStartParams | default dict) $name -}}
{{- fail (printf "%s.rayStartParams: %s is set by the chart (a head offers no CPUs and GPUs, a worker offers those of its limits); remove it" $group $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $versions := .Capabilities.APIVersions -}}
{{- if and ($versions.Has "apps/v1/Deployment") (not ($versions.Has (printf "ray.io/v1/%s" .Values.kind))) -}}
{{- fail (printf "kind: the cluster has no %s of ray.io/v1; install the KubeRay operator and its CRDs (v1.6 or later) first" .Values.kind) -}}
{{- end -}}
{{- end }}
