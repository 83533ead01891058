#!/bin/sh
# The HTTP API with curl, as a backend or an operator uses it from a shell. `tcbchat ctl` does the same without curl, jq and openssl.
#
#     API_TOKEN_FILE=api.token sh chat-api.sh publish /topic/tea 'The kettle is on'
#
# CHAT_API is the URL of `api.listen`. API_TOKEN_FILE is a copy of `api.token_file`. What is answered is JSON. The exit code
# is 0 when it is done, 1 when the API refuses, 2 when the command is not right, 3 when the API cannot be reached.
set -eu

usage() {
  cat >&2 <<'END'
usage: chat-api.sh COMMAND
  publish DESTINATION TEXT [KEY]   once, however often it is repeated with this KEY
  sessions [LOGIN]                 all, page by page, or those of a login
  session ID
  disconnect LOGIN REASON
  ban LOGIN SECONDS REASON
  unban LOGIN
  bans
  rooms
  queues
END
  exit 2
}

api=${CHAT_API:-http://127.0.0.1:8090}
: "${API_TOKEN_FILE:?is not set: it names a copy of api.token_file}"
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
umask 077
# In a file, because everybody may read the arguments of a process.
token=$(cat "$API_TOKEN_FILE") || exit 2
printf 'Authorization: Bearer %s\n' "$token" >"$directory/token"

# request METHOD PATH [CURL OPTION]...
request() {
  method=$1 path=$2
  shift 2
  # 503 passes. With --retry, curl waits as long as Retry-After says.
  status=$(curl --silent --show-error --max-time 30 --retry 3 --output "$directory/answer" --write-out '%{http_code}' \
    --request "$method" --header @"$directory/token" "$@" "$api$path") || exit 3
  case $status in
    2*) cat "$directory/answer" ;;
    *)
      jq --raw-output '"the API refuses: \(.name): \(.detail)"' "$directory/answer" >&2 ||
        printf 'this is no API: HTTP status %s\n' "$status" >&2
      exit 1
      ;;
  esac
}

# post PATH JSON [CURL OPTION]...
post() {
  path=$1
  printf '%s' "$2" >"$directory/body"
  shift 2
  request POST "$path" --header 'Content-Type: application/json' --data-binary @"$directory/body" "$@"
}

# list PATH [FILTER]: all pages of a list, one entry a line.
list() {
  after=
  while :; do
    page=$(request GET "$1?limit=${PAGE:-500}${2:+&$2}${after:+&after=$after}") || exit
    printf '%s\n' "$page" | jq --compact-output '(.sessions // .rooms // .queues // .bans)[]'
    after=$(printf '%s\n' "$page" | jq --raw-output '.next // "" | @uri')
    [ -n "$after" ] || break
  done
}

# What a query can have.
encoded() { jq --null-input --raw-output --arg text "$1" '$text | @uri'; }

command=${1:-}
[ $# -gt 0 ] && shift
case $command:$# in
  publish:[23])
    message=$(jq --null-input --arg destination "$1" --arg body "$2" '{$destination, $body}')
    # Whoever repeats a publication after a broken connection says the key of the first try.
    post /v1/publish "$message" --header "Idempotency-Key: ${3:-$(openssl rand -hex 16)}"
    ;;
  sessions:0) list /v1/sessions '' ;;
  sessions:1) list /v1/sessions "login=$(encoded "$1")" ;;
  session:1) request GET "/v1/sessions/$(encoded "$1")" ;;
  disconnect:2) post /v1/disconnect "$(jq --null-input --arg login "$1" --arg reason "$2" '{$login, $reason}')" ;;
  ban:3)
    ban=$(jq --null-input --arg login "$1" --argjson seconds "$2" --arg reason "$3" '{$login, $seconds, $reason}') || usage
    post /v1/bans "$ban"
    ;;
  unban:1) request DELETE "/v1/bans?login=$(encoded "$1")" ;;
  bans:0) list /v1/bans '' ;;
  rooms:0) list /v1/rooms '' ;;
  queues:0) list /v1/queues '' ;;
  *) usage ;;
esac
