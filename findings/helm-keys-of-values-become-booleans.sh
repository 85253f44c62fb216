#!/bin/sh
# Helm 4.3.2 (3.22.0 does the same)
#
# Behaviour: the keys of a values file are read as YAML 1.1 too. `on`, `y` and `yes` become the key "true", `n`, `no`, `NO` and `off`
# the key "false". Several of them in one mapping are one key afterwards, and all values but the last are gone, as for a key that is
# there twice. Nothing is said, by `helm lint --strict` neither. In quotes they stay as they are.
#
# Why it matters: a configuration that passes through values and `toYaml` (`on: [fired]`, countries by their codes, coordinates)
# arrives with other keys, or with fewer. That is why the chart of Tocsin takes its configuration as text.
#
# Guess: as with the well-known `country: NO`, only values are concerned; a key is text, as JSON needs, and a key that is there
# twice is an error.
#
# Output seen:
#   countries:
#     SE: Sweden
#     "false": Norway
#   "on": quoted
#   point:
#     "true": 3
#   twice: 2
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GOBIN="$folder" go install helm.sh/helm/v4/cmd/helm@v4.3.2
mkdir -p "$folder/chart/templates"
printf 'apiVersion: v2\nname: chart\nversion: 0.1.0\n' >"$folder/chart/Chart.yaml"
printf '{{ toYaml .Values }}\n' >"$folder/chart/templates/shown.yaml"
rendered() { HOME="$folder" "$folder/helm" template name "$folder/chart" --values "$folder/values.yaml"; }

printf 'countries: {SE: Sweden, NO: Norway}\npoint: {y: 1, yes: 2, on: 3}\n"on": quoted\ntwice: 1\ntwice: 2\n' >"$folder/values.yaml"
rendered | tee "$folder/output" | tail -n +3
grep -q '"false": Norway' "$folder/output"
grep -q '"true": 3' "$folder/output"
test "$(grep -c '"true"' "$folder/output")" -eq 1
grep -q '"on": quoted' "$folder/output"
grep -q '^twice: 2$' "$folder/output"
