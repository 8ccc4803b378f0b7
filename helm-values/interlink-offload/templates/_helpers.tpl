{{- /* Labels that select the pods of one component. Call with (list $ "relay"). */}}
{{- define "offload.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* All labels of an object of one component. Call with (list $ "relay"). */}}
{{- define "offload.labels" -}}
{{- $root := index . 0 -}}
{{ include "offload.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- /* Labels of pods that the zero-to-jupyterhub chart, or its hub, makes.
       Call with (list $ "hub"). app and release are on pods of all 4.x releases. */}}
{{- define "offload.hubSelector" -}}
{{- $root := index . 0 -}}
app: {{ $root.Values.hub.app }}
release: {{ $root.Values.hub.release }}
component: {{ index . 1 }}
{{- end }}

{{- define "offload.image" -}}
{{ required "image.name: the name of your image made from images/relay-service" .Values.image.name }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What both deployments have in common in their pods. Call with $. */}}
{{- define "offload.podSpec" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "offload.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The keys of leases, each as one file. Call with $. */}}
{{- define "offload.keyVolume" -}}
- name: lease-keys
  secret:
    secretName: {{ .Values.relay.keys.existingSecret }}
    # Owned by root, and readable by the group of these pods alone.
    defaultMode: 0440
    items:
    {{- range .Values.relay.keys.names }}
    - {key: {{ . | quote }}, path: {{ . | quote }}}
    {{- end }}
{{- end }}

{{- define "offload.catalogName" -}}
{{ .Values.catalog.existingConfigMap | default "offload-catalog" }}
{{- end }}

{{- /* Where pods of jobs run in this cluster: what the values say, or else what the catalog says. A list, as JSON. */}}
{{- define "offload.jobNamespaces" -}}
{{- $found := ternary (list .Release.Namespace) list (ne .Values.catalog.existingConfigMap "") }}
{{- range $site := (.Values.catalog.text | fromYaml).sites | default dict }}
{{- if and (has $site.kind (list "kubernetes" "interlink")) (not $site.context) }}
{{- $found = append $found ($site.namespace | default $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- .Values.jobs.namespaces | default $found | uniq | toJson }}
{{- end }}

{{- /* The path of the hub, with both slashes; and that of the service. */}}
{{- define "offload.baseUrl" -}}
{{- $url := required "hub.publicUrl: the hub's address as browsers and worker nodes reach it, such as https://hub.example.org/" .Values.hub.publicUrl | urlParse -}}
{{ $url.path | default "/" }}
{{- end }}
{{- define "offload.servicePrefix" -}}
{{ include "offload.baseUrl" . | trimSuffix "/" }}/services/offload/
{{- end }}

{{- /* What agents dial: the path of ingress or route on the hub's name, unless a URL is given. */}}
{{- define "offload.relayUrl" -}}
{{- if .Values.relay.publicUrl -}}
{{ .Values.relay.publicUrl }}
{{- else -}}
{{- $route := ternary .Values.httpRoute .Values.ingress .Values.httpRoute.enabled -}}
{{- if not (or .Values.ingress.enabled .Values.httpRoute.enabled) }}{{ fail "relay.publicUrl: with neither ingress nor httpRoute enabled, say how worker nodes reach the relay, such as wss://relay.example.org" }}{{ end -}}
{{- $url := urlParse .Values.hub.publicUrl -}}
{{ ternary "wss" "ws" (eq $url.scheme "https") }}://{{ $url.host }}{{ $route.path }}
{{- end -}}
{{- end }}
