{{/*
The name of everything: the release's. A StatefulSet's is at most 52 characters, since its pods carry it in a label with
eleven more; a longer one keeps its beginning and a digest, so that two releases never share a name.
*/}}
{{- define "swarm.name" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if gt (len $name) 52 -}}
{{- $name = printf "%s-%s" ($name | trunc 43 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- fail (printf "couldn't name the site's objects %q: a Service's name begins with a letter and has no dots; name the release so, or set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "swarm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "swarm.labels" -}}
{{ include "swarm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "swarm.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What a container may: nothing that it does not need. */}}
{{- define "swarm.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The port that the peer listens on, whatever port others dial outside. */}}
{{- define "swarm.port" -}}7400{{- end -}}

{{- define "swarm.metricsPort" -}}9464{{- end -}}

{{- define "swarm.folder" -}}/var/lib/swarm/site{{- end -}}

{{/* What every container of the pod knows, and every command that is run in it by hand. */}}
{{- define "swarm.environment" -}}
- name: HOME
  value: /tmp
- name: XDG_STATE_HOME
  value: /var/lib/swarm/state
{{- if .Values.task.source }}
- name: SWARM_TASK__FILE
  value: /etc/swarm/task.py
{{- end }}
{{- range $key, $value := .Values.settings }}
- name: SWARM_{{ $key | upper | replace "." "__" }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end -}}

{{/*
What opens the keys, as a service manager gives it: a Secret's file is root's and readable by the pod's group, which a
file named in SWARM_PASSPHRASE_FILE must not be.
*/}}
{{- define "swarm.opening" -}}
{{- if .Values.keys.secret -}}
- name: CREDENTIALS_DIRECTORY
  value: /run/keys
{{- end -}}
{{- end -}}

{{/* Wrong in a way that no schema sees. */}}
{{- define "swarm.check" -}}
{{- if not .Values.site.name -}}
{{- fail "couldn't make a site: it has no name; set site.name to what the swarm shall call it" -}}
{{- end -}}
{{- if and .Values.keys.plain .Values.keys.secret -}}
{{- fail "couldn't make a site: keys.secret names a passphrase and keys.plain says that there is none; set one of them" -}}
{{- end -}}
{{- if not (or .Values.keys.plain .Values.keys.secret) -}}
{{- fail "couldn't make a site: nothing opens its keys; set keys.secret to a Secret with a passphrase, or keys.plain=true to leave them unencrypted on the volume" -}}
{{- end -}}
{{- if and (ne .Values.inbound.type "None") (not .Values.site.advertise) -}}
{{- fail "couldn't make a site: inbound lets others in, and site.advertise names no address that they could dial; set it to tcp://host:port" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.neighbours) (not .Values.site.advertise) -}}
{{- fail "couldn't make a site: it dials nobody (neighbours is empty) and nobody dials it (site.advertise is empty); name its neighbours, or set networkPolicy.enabled=false" -}}
{{- end -}}
{{- range $key := list "task.file" "site.listen" "task.data" -}}
{{- if and (hasKey $.Values.settings $key) (or (ne $key "task.file") $.Values.task.source) -}}
{{- fail (printf "couldn't use settings: %s is decided by other values of the chart (site.advertise, task.source, data); leave it out" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
