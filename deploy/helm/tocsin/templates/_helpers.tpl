{{/* The name of every object. The name of a StatefulSet ends up in a label with a hash behind it, so it is short. */}}
{{- define "tocsin.fullname" -}}
{{- $name := contains "tocsin" .Release.Name | ternary .Release.Name (printf "%s-tocsin" .Release.Name) -}}
{{- default $name .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "tocsin.selector" -}}
app.kubernetes.io/name: tocsin
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tocsin.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "tocsin.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Refuse values that fit the schema, and would give a Tocsin that does not work. */}}
{{- define "tocsin.check" -}}
{{- $values := .Values -}}
{{- if not $values.image.repository -}}
{{- fail "set image.repository: there is no public image; build one with exporter/Dockerfile and push it to your registry" -}}
{{- end -}}
{{- if and (eq $values.ledger "sqlite") (gt (int $values.replicas) 1) -}}
{{- fail "replicas: a ledger in SQLite is for one process; set ledger: postgresql, or replicas: 1" -}}
{{- end -}}
{{- if and $values.config $values.existingConfigMap -}}
{{- fail "config and existingConfigMap: set only one of them" -}}
{{- else if not (or $values.config $values.existingConfigMap) -}}
{{- fail "set config (helm ... --set-file config=tocsin.yaml) or existingConfigMap, a ConfigMap with the key tocsin.yaml" -}}
{{- else if $values.config -}}
{{- include "tocsin.checkConfig" (dict "values" $values "config" (fromYaml $values.config)) -}}
{{- end -}}
{{- end }}

{{/* Only the keys that have to agree with the chart; `tocsin check` is for the others. */}}
{{- define "tocsin.checkConfig" -}}
{{- $ledger := default dict .config.ledger -}}
{{- $listen := toString (default dict .config.web).listen -}}
{{- if .config.Error -}}
{{- fail (printf "config is not valid YAML: %s" .config.Error) -}}
{{- else if not (regexMatch `^(0\.0\.0\.0|\[::\]|):8627$` $listen) -}}
{{- fail "config: set web.listen to 0.0.0.0:8627; otherwise neither probes nor Prometheus reach it" -}}
{{- else if and (eq .values.ledger "postgresql") (not (hasPrefix "/run/secrets/" (toString $ledger.url_file))) -}}
{{- fail "config: with ledger: postgresql, set ledger.url_file to /run/secrets/SECRET/KEY, and name the Secret in secrets" -}}
{{- else if and (eq .values.ledger "sqlite") (or $ledger.url $ledger.url_file (not (hasPrefix "/var/lib/tocsin/" (toString $ledger.path)))) -}}
{{- fail "config: with ledger: sqlite, set ledger.path to /var/lib/tocsin/tocsin.db, which is on the volume" -}}
{{- end -}}
{{- end }}

{{/* What all three probes ask: whether the process answers. /readyz asks more: whether sources and channels work, and whether
others run another configuration. As a readiness probe it would keep a pod with a new configuration from being available, so that
no update of it ends, and it would cut off the status page and events over HTTP while one source is away. */}}
{{- define "tocsin.probe" -}}
{path: /healthz, port: http, scheme: {{ .Values.tls | ternary "HTTPS" "HTTP" }}}
{{- end }}

{{/* The pod, alike in the StatefulSet (SQLite) and the Deployment (PostgreSQL). */}}
{{- define "tocsin.pod" -}}
metadata:
  labels:
    {{- include "tocsin.selector" . | nindent 4 }}
    {{- with .Values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.config .Values.podAnnotations }}
  annotations:
    {{- if .Values.config }}
    checksum/config: {{ sha256sum .Values.config }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . | quote }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  terminationGracePeriodSeconds: {{ int64 .Values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    {{- with .Values.runAsUser }}
    runAsUser: {{ int64 . }}
    runAsGroup: {{ int64 . }}
    fsGroup: {{ int64 . }}
    {{- end }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: tocsin
      image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- with .Values.env }}
      env:
        {{- range $name, $value := . }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8627
      startupProbe:
        httpGet: {{ include "tocsin.probe" . }}
        periodSeconds: 1
        timeoutSeconds: 5
        failureThreshold: 120
      readinessProbe:
        httpGet: {{ include "tocsin.probe" . }}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {{ include "tocsin.probe" . }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: config
          mountPath: /etc/tocsin
          readOnly: true
        {{- range .Values.secrets }}
        - name: secret-{{ sha256sum . | trunc 10 }}
          mountPath: /run/secrets/{{ . }}
          readOnly: true
        {{- end }}
        - name: tmp
          mountPath: /tmp
        {{- if eq .Values.ledger "sqlite" }}
        - name: ledger
          mountPath: /var/lib/tocsin
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ default (include "tocsin.fullname" .) .Values.existingConfigMap | quote }}
    {{- range .Values.secrets }}
    - name: secret-{{ sha256sum . | trunc 10 }}
      secret:
        secretName: {{ . | quote }}
    {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tocsin.selector" . | nindent 10 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
