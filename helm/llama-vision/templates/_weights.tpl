{{/* Fetches the weights before Ray starts: resumed after a crash, verified, at most once a volume. */}}
{{- define "llama-vision.weights" -}}
{{- $m := .Values.model -}}
{{- $secret := ternary $m.huggingFace.tokenSecret $m.https.authorizationSecret (eq $m.source "huggingFace") -}}
{{- $folder := get $m $m.source -}}
- name: weights
  image: {{ include "llama-vision.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - python
    - -m
    - serving.weights
    - /models/{{ $m.folder }}
    {{- if eq $m.source "huggingFace" }}
    - --hugging-face={{ $m.huggingFace.repository }}@{{ $m.huggingFace.revision }}
    {{- else }}
    - --url={{ $folder.url }}
    - --sums={{ $folder.sums }}
    {{- end }}
  env:
    - {name: HOME, value: /tmp}
    {{- if eq $m.source "s3" }}
    - {name: AWS_REGION, value: {{ $m.s3.region }}}
    {{- with $m.s3.endpoint }}
    - {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
    {{- end }}
    {{- if $m.s3.credentialsSecret }}
    {{- range (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY") }}
    {{- include "llama-vision.secretEnv" (dict "key" . "secret" $m.s3.credentialsSecret) | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- else if $secret.name }}
    - name: {{ ternary "HF_TOKEN" "AUTHORIZATION" (eq $m.source "huggingFace") }}
      valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
    {{- end }}
  resources: {{- include "llama-vision.resources" (dict "cpu" "1" "memory" "1Gi" "ephemeralStorage" "256Mi") | nindent 4 }}
  securityContext: {{- include "llama-vision.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "llama-vision.modelVolume" -}}
- name: models
  {{- if .Values.model.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.model.claim }}}
  {{- else }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.model.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .Values.model.size | quote }}}}
  {{- end }}
{{- end -}}
