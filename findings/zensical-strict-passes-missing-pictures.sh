#!/usr/bin/env bash
# zensical 0.0.73
#
# Behaviour: `zensical build --strict` says "No issues found" and exits with 0 for a page with a picture that does not exist, a
# page in `nav` that does not exist, and an unknown key in mkdocs.yml. It fails for a link to a page that does exist if the name
# of its file begins with a dot.
#
# Why it matters: mkdocs --strict fails for the first two, so a site that moves to zensical loses these checks without a sign.
#
# Guess: strict fails for everything that mkdocs --strict fails for.
#
# Seen:
#   0 picture that does not exist
#   0 page of nav that does not exist
#   0 unknown key
#   1 link to a page that does not exist
#   1 link to a page that exists as .hidden.md
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zensical==0.0.73
same=0
build() { # what, wanted status, nav, further keys, text of the page
  local site="$folder/$RANDOM" status=0
  mkdir -p "$site/docs"
  printf 'site_name: x\nnav: [%s]\n%s\n' "$3" "$4" >"$site/mkdocs.yml"
  printf '# Home\n\n%s\n' "$5" >"$site/docs/index.md"
  printf '# Hidden\n' >"$site/docs/.hidden.md"
  (cd "$site" && "$folder/venv/bin/zensical" build --strict >/dev/null 2>&1) || status=1
  echo "$status $1"
  [[ $status == "$2" ]] || same=1
}
build "picture that does not exist" 0 index.md "" "![a picture](one.png)"
build "page of nav that does not exist" 0 "index.md, gone.md" "" "Text."
build "unknown key" 0 index.md "no_such_key: 1" "Text."
build "link to a page that does not exist" 1 index.md "" "[a page](gone.md)"
build "link to a page that exists as .hidden.md" 1 index.md "" "[a page](.hidden.md)"
exit $same
