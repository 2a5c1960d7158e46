{{/* What head and workers have in common: Serve builds the application on either. */}}
{{- define "llama-vision.rayEnv" -}}
- {name: HOME, value: /tmp}
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1"}
# What a replica answers with 503 it has not begun: another may serve it.
- {name: RAY_SERVE_HAPROXY_RETRY_ON, value: conn-failure 503}
# Ray runs its workers at nice 15: the replica would yield to its own engine.
- {name: RAY_worker_niceness, value: "0"}
# Ray's monitor would send each line of a log to whoever listens: nobody does, files are read.
- {name: RAY_LOG_MONITOR_NUM_LINES_TO_READ, value: "0"}
- {name: RAY_LOG_MONITOR_MANY_FILES_THRESHOLD, value: "0"}
# Sessions go to one replica, outages are told as errors of the API: Ray's
# `worker_process_setup_hook`, for all processes.
- {name: __RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR, value: serving.cluster.hook.in_pods}
- {name: RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S, value: {{ .Values.drain.routeSeconds | quote }}}
- {name: RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, value: {{ .Values.drain.routeSeconds | quote }}}
- {name: RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S, value: {{ include "llama-vision.drain.replica" . | quote }}}
- {name: RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S, value: {{ .Values.drain.longestAnswerSeconds | quote }}}
# Ray gives up on HAProxy's process after 5 s, which a node that starts a pod's engines exceeds.
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "60"}
{{- if hasPrefix "rediss://" .Values.gcsFaultTolerance.redisAddress }}
# Ray trusts nobody by itself.
- {name: RAY_REDIS_CA_CERT, value: {{ ternary "/etc/llama-vision/ca/ca.crt" "/etc/ssl/certs/ca-certificates.crt" (ne .Values.trust.configMap "") }}}
{{- end }}
# The engine core runs the model itself instead of starting yet another process for it.
- {name: VLLM_ENABLE_V1_MULTIPROCESSING, value: "0"}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
- {name: DO_NOT_TRACK, value: "1"}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- if eq (include "llama-vision.gpus" .) "0" }}
{{- $cores := .Values.workers.cpu }}
{{- if hasSuffix "m" $cores }}{{ $cores = max 1 (div (trimSuffix "m" $cores) 1000) }}{{ end }}
- {name: OMP_NUM_THREADS, value: {{ $cores | toString | quote }}}
{{- end }}
- {name: STATE_DIR, value: /state}
# For Prometheus; the network policy lets nobody else in.
- {name: METRICS_HOST, value: 0.0.0.0}
- {name: METRICS_PORT, value: "9464"}
{{- if .Values.adapters.claim }}
- {name: ADAPTERS_DIR, value: /adapters}
{{- end }}
{{- with .Values.monitoring.tokenSecret }}
{{- if .name }}
- {name: METRICS_TOKEN, valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}}
{{- end }}
{{- end }}
{{- if include "llama-vision.catalog" . }}
- {name: CATALOG, value: /etc/llama-vision/catalog/catalog.yaml}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- /* YAML's numbers are floats here: 1048576 would become 1.048576e+06. */}}
{{- $whole := and (kindIs "float64" $value) (eq (floor $value) $value) }}
- {name: {{ $name }}, value: {{ ternary (printf "%.0f" (float64 $value)) (toString $value) $whole | quote }}}
{{- end }}
{{- range (concat (list "ACCOUNT_ID" "API_TOKEN") (ternary (list "TENANCY_SECRET") list .Values.tenancy.enabled)) }}
{{ include "llama-vision.secretEnv" (dict "key" . "secret" $.Values.secrets.name) }}
{{- end }}
{{- if .Values.tenancy.enabled }}
{{ include "llama-vision.databaseEnv" . }}
{{ include "llama-vision.storeEnv" (dict "root" . "name" "REDIS_URL" "own" .Values.tenancy.redisSecret) }}
{{- end }}
{{- end -}}

{{/* Ports that the network policy names: Ray would take any. */}}
{{- define "llama-vision.rayStart" -}}
object-store-memory: "268435456", node-manager-port: "6380", object-manager-port: "6381"
{{- end -}}

{{- define "llama-vision.rayMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /state}
{{- if include "llama-vision.catalog" . }}
- {name: catalog, mountPath: /etc/llama-vision/catalog, readOnly: true}
{{- end }}
{{- if .Values.tenancy.prices }}
- {name: prices, mountPath: /etc/llama-vision/prices, readOnly: true}
{{- end }}
{{- if .Values.adapters.claim }}
- {name: adapters, mountPath: /adapters}
{{- end }}
{{- if .Values.trust.configMap }}
- {name: trust, mountPath: /etc/llama-vision/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llama-vision.rayVolumes" -}}
- {name: tmp, emptyDir: {}}
- name: state
  {{- if or .Values.state.claim .Values.state.create }}
  persistentVolumeClaim: {claimName: {{ .Values.state.claim | default (printf "%s-state" (include "llama-vision.name" .)) }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- if include "llama-vision.catalog" . }}
- {name: catalog, configMap: {name: {{ include "llama-vision.name" . }}-catalog}}
{{- end }}
{{- if .Values.tenancy.prices }}
- {name: prices, configMap: {name: {{ include "llama-vision.name" . }}-prices}}
{{- end }}
{{- with .Values.adapters.claim }}
- {name: adapters, persistentVolumeClaim: {claimName: {{ . }}}}
{{- end }}
{{- with .Values.trust.configMap }}
- {name: trust, configMap: {name: {{ . }}}}
{{- end }}
{{- end -}}

{{/* Catalogue and prices are read when the application is built: a change needs new pods. */}}
{{- define "llama-vision.rayMetadata" -}}
labels:
  {{- include "llama-vision.ours" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
annotations:
  checksum/catalog: {{ include "llama-vision.catalog" .root | sha256sum }}
  {{- with .root.Values.tenancy.prices }}
  checksum/prices: {{ sha256sum . }}
  {{- end }}
{{- end -}}

{{/* The parts of a pod that head and workers share; (dict "root" $ "group" its values "grace" seconds). */}}
{{- define "llama-vision.rayPod" -}}
enableServiceLinks: false
securityContext: {{- include "llama-vision.podSecurity" .root | nindent 2 }}
terminationGracePeriodSeconds: {{ .grace }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .root.Values.priorityClass.name }}
priorityClassName: {{ . }}
{{- end }}
{{- with .group.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "llama-vision.rayContainer" -}}
image: {{ include "llama-vision.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "llama-vision.containerSecurity" . | nindent 2 }}
lifecycle:
  # Ray drains by itself when it is told to stop; it is told once Services have forgotten the pod.
  preStop: {sleep: {seconds: {{ .Values.drain.endpointSeconds }}}}
{{- end -}}
