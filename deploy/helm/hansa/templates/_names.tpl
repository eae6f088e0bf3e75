{{- define "hansa.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- define "hansa.selector" -}}
app.kubernetes.io/name: hansa
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "hansa.labels" -}}
{{ include "hansa.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
