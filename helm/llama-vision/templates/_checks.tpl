{{/* What a schema cannot say: values that contradict each other. Included by the RayService. */}}
{{- define "llama-vision.checks" -}}
{{- $v := .Values -}}
{{- if gt (int $v.replicas.min) (int $v.replicas.max) -}}
{{ fail "replicas.min is more than replicas.max" }}
{{- end -}}
{{- if and $v.disruption.minAvailableWorkers (ge (int $v.disruption.minAvailableWorkers) (int $v.replicas.min)) -}}
{{ fail "disruption.minAvailableWorkers must be less than replicas.min, or no node can ever be drained" }}
{{- end -}}
{{- if and (eq $v.model.source "claim") (not $v.model.claim) -}}
{{ fail "model.claim: name the PersistentVolumeClaim with the weights, or choose another model.source" }}
{{- end -}}
{{- if and (eq $v.model.source "huggingFace") (not $v.model.huggingFace.revision) -}}
{{ fail "model.huggingFace.revision: give the commit to fetch, 40 hex digits" }}
{{- end -}}
{{- if and (eq $v.model.source "https") (not (and $v.model.https.url $v.model.https.sums)) -}}
{{ fail "model.https: give url and sums, the SHA-256 of its SHA256SUMS" }}
{{- end -}}
{{- if and (eq $v.model.source "s3") (not (and $v.model.s3.url $v.model.s3.sums)) -}}
{{ fail "model.s3: give url and sums, the SHA-256 of its SHA256SUMS" }}
{{- end -}}
{{- if and (or $v.adapters.claim $v.tenancy.prices) (not $v.tenancy.enabled) -}}
{{ fail "adapters.claim and tenancy.prices need tenancy.enabled: without PostgreSQL each replica has accounts of its own" }}
{{- end -}}
{{- $named := hasPrefix "/etc/llama-vision/prices/prices.yaml#" (toString (get $v.settings "PRICES")) -}}
{{- if ne (ternary "given" "" (ne $v.tenancy.prices "")) (ternary "given" "" $named) -}}
{{ fail "tenancy.prices and settings.PRICES=/etc/llama-vision/prices/prices.yaml#NAME belong together" }}
{{- end -}}
{{- if and $v.tenancy.enabled (not (or $v.state.claim $v.state.create)) -}}
{{ fail "tenancy.enabled needs state.claim or state.create: the journal of usage must outlive pods" }}
{{- end -}}
{{- if and (or $v.state.claim $v.state.create) (not $v.tenancy.enabled) -}}
{{ fail "state needs tenancy.enabled: without PostgreSQL each replica keeps an SQLite file there, which must not be shared" }}
{{- end -}}
{{- if and (not (has (toString (get $v.settings "LICENCE_GATE")) (list "" "false"))) (not (or $v.state.claim $v.state.create)) -}}
{{ fail "settings.LICENCE_GATE needs state.claim or state.create: agreements must outlive pods" }}
{{- end -}}
{{- if and $v.secrets.externalSecrets.enabled (not (and $v.secrets.externalSecrets.store $v.secrets.externalSecrets.serviceEntry $v.secrets.externalSecrets.rayEntry)) -}}
{{ fail "secrets.externalSecrets: give store, serviceEntry and rayEntry" }}
{{- end -}}
{{- if and $v.gcsFaultTolerance.enabled (not $v.gcsFaultTolerance.redisAddress) -}}
{{ fail "gcsFaultTolerance.redisAddress: where is Redis?" }}
{{- end -}}
{{- if and (eq $v.upgrade.strategy "NewClusterWithIncrementalUpgrade") (not $v.upgrade.gatewayClassName) -}}
{{ fail "upgrade.gatewayClassName: the incremental strategy shifts traffic with a Gateway of this class" }}
{{- end -}}
{{- if and $v.priorityClass.create (not $v.priorityClass.name) -}}
{{ fail "priorityClass.name: how shall the PriorityClass be called?" }}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{ fail "httpRoute.parentRefs: name the Gateway" }}
{{- end -}}
{{- if and $v.ingress.enabled (not (and $v.ingress.host $v.ingress.tlsSecret)) -}}
{{ fail "ingress: give host and tlsSecret; tokens must not travel in the clear" }}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.tenancy.enabled (not (and $v.networkPolicy.postgres.peers $v.networkPolicy.redis.peers)) -}}
{{ fail "networkPolicy.postgres.peers and .redis.peers: where are they? Nothing else is let out" }}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.gcsFaultTolerance.enabled (not $v.networkPolicy.redis.peers) -}}
{{ fail "networkPolicy.redis.peers: where is it? Nothing else is let out" }}
{{- end -}}
{{- include "llama-vision.apis" . -}}
{{- end -}}

{{/* On a live cluster, the APIs that must be there. Only the aggregator of a real API server serves
apiregistration.k8s.io, so `helm template` and `helm lint` pass without. */}}
{{- define "llama-vision.apis" -}}
{{- $v := .Values -}}
{{- $monitors := or $v.monitoring.podMonitor $v.monitoring.serviceMonitor $v.monitoring.rules -}}
{{- $needs := list
  (list true "ray.io/v1" "install the KubeRay operator, 1.7 or later")
  (list $v.httpRoute.enabled "gateway.networking.k8s.io/v1" "install the Gateway API, or set httpRoute.enabled=false")
  (list $monitors "monitoring.coreos.com/v1" "install the Prometheus operator, or turn monitoring off")
  (list $v.secrets.externalSecrets.enabled "external-secrets.io/v1" "install External Secrets, or make the Secrets yourself")
-}}
{{- if .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1" -}}
{{- range $needs -}}
{{- if and (index . 0) (not ($.Capabilities.APIVersions.Has (index . 1))) -}}
{{ fail (printf "the cluster has no %s: %s" (index . 1) (index . 2)) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
