{{/* The Serve configuration: KubeRay sends it to Ray. Changes here update replicas in place. */}}
{{- define "llama-vision.serve" -}}
proxy_location: EveryNode
http_options: {host: 0.0.0.0, port: 8000}
applications:
  - name: workers-ai
    import_path: serving.cluster.replica:configured
    route_prefix: /
    args: {}
    deployments:
      - name: Replica
        autoscaling_config:
          min_replicas: {{ .Values.replicas.min }}
          max_replicas: {{ .Values.replicas.max }}
          {{- if .Values.replicas.engineSeconds }}
          # Delays are the policy's own.
          upscale_delay_s: 0
          downscale_delay_s: 0
          policy:
            policy_function: serving.cluster.scaling:Policy
            policy_kwargs:
              costs: {{ toJson .Values.replicas.engineSeconds }}
              quiet: {{ .Values.replicas.downscaleDelaySeconds }}
          {{- else }}
          target_ongoing_requests: {{ include "llama-vision.target" . }}
          upscale_delay_s: 30
          downscale_delay_s: {{ .Values.replicas.downscaleDelaySeconds }}
          {{- end }}
        max_replicas_per_node: 1
        max_surge_percent: {{ .Values.replicas.surgePercent }}
        graceful_shutdown_timeout_s: {{ include "llama-vision.drain.replica" . }}
{{- end -}}

{{/* Workers: one a replica, and those that an update starts before it stops others. */}}
{{- define "llama-vision.maxWorkers" -}}
{{- $max := int .Values.replicas.max -}}
{{- add $max (ceil (divf (mul $max (int .Values.replicas.surgePercent)) 100)) -}}
{{- end -}}
