{{/* The variables of the gateway, docs/configuration.md. Those with an empty value are left out: defaults are its own. */}}
{{- define "gateway.env" -}}
{{- $redis := "" -}}
{{- if not .Values.redisUrlInSecret -}}
{{- $redis = required "redisUrl: where Redis or Valkey is, or redisUrlInSecret: true" .Values.redisUrl -}}
{{- end -}}
{{- $variables := list
  (list "GATEWAY_HOST" "0.0.0.0")
  (list "GATEWAY_OPS_HOST" "0.0.0.0")
  (list "GATEWAY_CONFIG" "/etc/quantapay-gateway/gateway.yaml")
  (list "GATEWAY_REDIS_URL" $redis)
  (list "GATEWAY_REPLICAS" (include "gateway.mostReplicas" .))
  (list "GATEWAY_WORKERS" .Values.workers)
  (list "GATEWAY_TRUSTED_PROXIES" (join "," .Values.trustedProxies))
  (list "GATEWAY_PUBLIC_URL" .Values.publicUrl)
  (list "GATEWAY_DRAIN_SECONDS" .Values.drainSeconds)
  (list "GATEWAY_DOCS" (ternary "on" "off" .Values.docs))
  (list "GATEWAY_LOG_LEVEL" .Values.logLevel)
  (list "GATEWAY_LOG_FORMAT" "json")
  (list "QUANTAPAY_URL" .Values.quantapay.url)
  (list "QUANTAPAY_PAYMENT_HOSTS" (join "," .Values.quantapay.paymentHosts))
  (list "QUANTAPAY_TIMEOUT" .Values.quantapay.timeoutSeconds)
  (list "QUANTAPAY_BUDGET" .Values.quantapay.budget)
  (list "QUANTAPAY_UNSIGNED" .Values.quantapay.unsigned)
-}}
{{- range $variables }}
{{- if ne (last . | toString) "" }}
- {name: {{ first . }}, value: {{ last . | toString | quote }}}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
