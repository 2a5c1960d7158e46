{{/* The text of the catalogue; empty when it is the image's own. */}}
{{- define "llama-vision.catalog" -}}
{{- $file := printf "catalogs/%s.yaml" .Values.model.catalog -}}
{{- if .Values.model.catalogText -}}
{{ .Values.model.catalogText }}
{{- else if ne .Values.model.catalog "image" -}}
{{ .Files.Get $file | required (printf "model.catalog: the chart has no %s; name another, or give model.catalogText" $file) }}
{{- end -}}
{{- end -}}

{{/* Its one model, as YAML. */}}
{{- define "llama-vision.entry" -}}
{{- $models := dig "models" (dict) (include "llama-vision.catalog" . | fromYaml) -}}
{{- if gt (len $models) 1 -}}
{{ fail "model.catalogText: a deployment serves one model" }}
{{- end -}}
{{- range $models }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "llama-vision.gpus" -}}
{{- dig "resources" "num_gpus" 0 (include "llama-vision.entry" . | fromYaml) | int -}}
{{- end -}}

{{/* Ongoing requests per replica: half of what it batches, since the next one takes minutes. */}}
{{- define "llama-vision.target" -}}
{{- $batch := dig "engine" "max_num_seqs" 32 (include "llama-vision.entry" . | fromYaml) -}}
{{- .Values.replicas.targetOngoingRequests | default (max 1 (div (int $batch) 2)) -}}
{{- end -}}

{{/* Where the weights are fetched to or mounted. */}}
{{- define "llama-vision.fetches" -}}
{{- if has .Values.model.source (list "huggingFace" "https" "s3") }}true{{ end -}}
{{- end -}}
