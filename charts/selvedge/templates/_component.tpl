{{/*
What the six components share. Each takes {"root": $, "name": <component>, ...}; the name of a component is
the name of its binary, image, Deployment, ServiceAccount, Service and Lease.
*/}}

{{- define "selvedge.selector" -}}
app.kubernetes.io/name: selvedge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "selvedge.labels" -}}
{{ include "selvedge.selector" . }}
app.kubernetes.io/part-of: selvedge
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "selvedge.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "selvedge.labels" . | nindent 2 }}
{{- end }}

{{/* A ServiceAccount whose token only pods that ask for it get. */}}
{{- define "selvedge.serviceaccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "selvedge.metadata" . | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{/* Binds a component to the ClusterRole "selvedge:<name>", and to Roles <name> in the namespaces given. */}}
{{- define "selvedge.bindings" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: selvedge:{{ .name }}
  labels:
    {{- include "selvedge.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: selvedge:{{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
{{- range .namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}
  namespace: {{ . }}
  labels:
    {{- include "selvedge.labels" $ | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $.name }}
subjects:
- kind: ServiceAccount
  name: {{ $.name }}
  namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end }}

{{/* Rules of a Role: the Lease by which one replica leads. create cannot be held to a name. */}}
{{- define "selvedge.election" -}}
# Leading: its own Lease.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .name }}]
  verbs: [get, update]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end }}

{{/*
A Deployment. Further keys: replicas, resources, args (list), ports (name -> number), volumes and mounts
(lists, optional), tag (of its image, when not everybody's), drain (seconds that a stopping pod still serves, so that its last callers find it).
*/}}
{{- define "selvedge.deployment" -}}
{{- $values := .root.Values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "selvedge.metadata" . | nindent 2 }}
spec:
  replicas: {{ .replicas }}
  selector:
    matchLabels:
      {{- include "selvedge.selector" . | nindent 6 }}
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  template:
    metadata:
      labels:
        {{- include "selvedge.selector" . | nindent 8 }}
        app.kubernetes.io/part-of: selvedge
      annotations:
        kubectl.kubernetes.io/default-container: {{ .name }}
        prometheus.io/scrape: "true"
        prometheus.io/port: "8080"
        prometheus.io/path: /metrics
    spec:
      serviceAccountName: {{ .name }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- with $values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      {{- if gt (int .replicas) 1 }}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels:
            {{- include "selvedge.selector" . | nindent 12 }}
      {{- end }}
      containers:
      - name: {{ .name }}
        image: {{ $values.image.registry }}/{{ .name }}:{{ .tag | default $values.image.tag | default .root.Chart.AppVersion }}
        imagePullPolicy: {{ $values.image.pullPolicy }}
        args:
        - --log={{ $values.log.level }}
        - --log-format={{ $values.log.format }}
        {{- range .args }}
        - {{ . }}
        {{- end }}
        env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        ports:
        - {name: admin, containerPort: 8080}
        {{- range $name, $port := .ports }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
        readinessProbe:
          httpGet: {path: /readyz, port: admin}
          periodSeconds: 2
        livenessProbe:
          httpGet: {path: /healthz, port: admin}
          periodSeconds: 10
          timeoutSeconds: 5
        {{- with .drain }}
        lifecycle:
          preStop:
            sleep: {seconds: {{ . }}}
        {{- end }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
        resources:
          {{- toYaml .resources | nindent 10 }}
        {{- with .mounts }}
        volumeMounts:
          {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .volumes }}
      volumes:
        {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}

{{/* One replica at a time may be evicted. */}}
{{- define "selvedge.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "selvedge.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "selvedge.selector" . | nindent 6 }}
{{- end }}
