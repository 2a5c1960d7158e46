{{/* The times of docs/kubernetes.md, "How a pod stops". Each holds the ones before it. */}}

{{/* A replica: what reaches it while the route forgets it, and then the longest answer. */}}
{{- define "llama-vision.drain.replica" -}}
{{- add .Values.drain.routeSeconds .Values.drain.longestAnswerSeconds -}}
{{- end -}}

{{/* The node: its replicas, and the seconds until Serve's controller has told them. */}}
{{- define "llama-vision.drain.node" -}}
{{- add (include "llama-vision.drain.replica" .) 10 -}}
{{- end -}}

{{- define "llama-vision.drain.grace" -}}
{{- add .Values.drain.endpointSeconds (include "llama-vision.drain.node" .) .Values.drain.killSeconds -}}
{{- end -}}
