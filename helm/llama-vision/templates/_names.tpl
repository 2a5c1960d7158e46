{{/* KubeRay takes names of at most 47 characters. */}}
{{- define "llama-vision.name" -}}
{{- .Values.nameOverride | default .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{- define "llama-vision.labels" -}}
app.kubernetes.io/name: llama-vision
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "llama-vision.ours" . }}
{{- end -}}

{{/* What selects the pods of this release. KubeRay sets app.kubernetes.io/name itself. */}}
{{- define "llama-vision.ours" -}}
app.kubernetes.io/instance: {{ include "llama-vision.name" . }}
{{- end -}}

{{- define "llama-vision.serveService" -}}
{{ include "llama-vision.name" . }}-serve-svc
{{- end -}}

{{- define "llama-vision.image" -}}
{{- $flavour := ternary "gpu" "cpu" (gt (int (include "llama-vision.gpus" .)) 0) -}}
{{- $tag := .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $flavour) -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}
