{{- define "llama-vision.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "llama-vision.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Requests and limits alike: (dict "cpu" .. "memory" .. "ephemeralStorage" ..). Always strings. */}}
{{- define "llama-vision.resources" -}}
{{- $all := dict "cpu" (toString .cpu) "memory" (toString .memory) "ephemeral-storage" (toString .ephemeralStorage) -}}
{{- if .gpus }}{{ $_ := set $all .gpuResource (toString .gpus) }}{{ end -}}
{{ dict "requests" $all "limits" $all | toYaml }}
{{- end -}}

{{/* One key of a Secret as a variable, of the same name unless another is told. */}}
{{- define "llama-vision.secretEnv" -}}
- name: {{ .name | default .key }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end -}}

{{/* The URL of a store: (dict "root" $ "name" "DATABASE_URL" "own" SECRET). */}}
{{- define "llama-vision.storeEnv" -}}
{{- $kept := dict "key" .name "secret" .root.Values.secrets.name -}}
{{- $own := dict "name" .name "key" .own.key "secret" .own.name -}}
{{- include "llama-vision.secretEnv" (ternary $own $kept (ne .own.name "")) -}}
{{- end -}}

{{/* PostgreSQL: what its URL does not say of TLS is said by libpq's variables. */}}
{{- define "llama-vision.databaseEnv" -}}
{{- include "llama-vision.storeEnv" (dict "root" . "name" "DATABASE_URL" "own" .Values.tenancy.databaseSecret) }}
{{- if .Values.trust.configMap }}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: /etc/llama-vision/ca/ca.crt}
{{- end }}
{{- end -}}

{{/* Small programs of the image, such as jobs and tests: (dict "root" $ "command" list "keys" list). */}}
{{- define "llama-vision.jobPod" -}}
serviceAccountName: {{ include "llama-vision.name" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
securityContext: {{- include "llama-vision.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
containers:
  - name: {{ .name }}
    image: {{ include "llama-vision.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: {{- toYaml .command | nindent 6 }}
    env:
      - {name: HOME, value: /tmp}
      {{- range .keys }}
      {{- include "llama-vision.secretEnv" (dict "key" . "secret" $.root.Values.secrets.name) | nindent 6 }}
      {{- end }}
      {{- with .env }}{{ toYaml . | nindent 6 }}{{ end }}
    resources: {{- include "llama-vision.resources" (dict "cpu" "500m" "memory" "512Mi" "ephemeralStorage" "256Mi") | nindent 6 }}
    securityContext: {{- include "llama-vision.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if .program }}
      - {name: program, mountPath: /opt/check, readOnly: true}
      {{- end }}
      {{- if .root.Values.trust.configMap }}
      - {name: trust, mountPath: /etc/llama-vision/ca, readOnly: true}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 128Mi}}
  {{- if .program }}
  - {name: program, configMap: {name: {{ .program }}}}
  {{- end }}
  {{- with .root.Values.trust.configMap }}
  - {name: trust, configMap: {name: {{ . }}}}
  {{- end }}
{{- end -}}
