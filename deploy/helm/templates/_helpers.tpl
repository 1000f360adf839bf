{{/* The name of every object: the release's, which need not say the chart's name twice. */}}
{{- define "gateway.name" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- trunc 50 $name | trimSuffix "-" -}}
{{- end }}

{{/* What finds the pods. It can never change while a release lives. */}}
{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "gateway.image" -}}
{{- $repository := required "image.repository: where your registry has the image of the Dockerfile" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* From SIGTERM to SIGKILL. The gateway is done within drain + timeout + 2 s. */}}
{{- define "gateway.gracePeriod" -}}
{{- $needed := addf .Values.drainSeconds .Values.quantapay.timeoutSeconds 2 | ceil | int -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{ add $needed 3 }}
{{- else if le (int .Values.terminationGracePeriodSeconds) $needed -}}
{{ fail (printf "terminationGracePeriodSeconds: takes more than %d: drainSeconds + quantapay.timeoutSeconds + 2" $needed) }}
{{- else -}}
{{ .Values.terminationGracePeriodSeconds | int }}
{{- end -}}
{{- end }}

{{/* The most replicas that there may be: what each assumes while Redis cannot say, so that no limit is passed. */}}
{{- define "gateway.mostReplicas" -}}
{{ .Values.autoscaling.enabled | ternary .Values.autoscaling.maxReplicas .Values.replicas | int }}
{{- end }}

{{/* Ports of a NetworkPolicy. */}}
{{- define "gateway.tcpPorts" -}}
{{- range . }}
- {protocol: TCP, port: {{ int . }}}
{{- end }}
{{- end }}
