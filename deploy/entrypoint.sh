#!/bin/sh
# Joins the Ray cluster when there is one (RAY_HEAD=host:port), then becomes the command.
set -eu

# The head makes the token that every node of the cluster must show; it stays on a volume that only they mount.
if [ "${RAY_MAKES_TOKEN:-}" = 1 ] && [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  (umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
fi

if [ -n "${RAY_HEAD:-}" ]; then
  ray start --address "$RAY_HEAD" --disable-usage-stats
fi

exec "$@"
