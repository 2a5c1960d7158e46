{{/* The times of docs/operations.md, "How a pod stops". Each holds the ones before it. */}}

{{/* A replica: what reaches it while the route forgets it, and then the longest answer. */}}
{{- define "llama-vision.drain.replica" -}}
{{- add .Values.drain.routeSeconds .Values.drain.longestAnswerSeconds -}}
{{- end -}}

{{/* A cluster that another has replaced: and the seconds until Serve's controller has told them. */}}
{{- define "llama-vision.drain.cluster" -}}
{{- add (include "llama-vision.drain.replica" .) 10 -}}
{{- end -}}

{{/* A node: its replica stays until another has loaded. Serve stops it this much before the end of
the drain, whether there is another or not. */}}
{{- define "llama-vision.drain.node" -}}
{{- add .Values.drain.loadSeconds (include "llama-vision.drain.cluster" .) -}}
{{- end -}}

{{- define "llama-vision.drain.grace" -}}
{{- add .Values.drain.endpointSeconds (include "llama-vision.drain.node" .) .Values.drain.killSeconds -}}
{{- end -}}
