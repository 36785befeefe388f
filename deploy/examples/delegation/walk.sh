#!/bin/sh
# Walks a user's token through gateway, orders and payments, and prints the token
# of each hop. Environment: STS_HTTP, the URL of the service; USER_TOKEN, a token
# of the user; GATEWAY_SECRET and ORDERS_SECRET. See docs/delegation.md.
set -eu

# exchange CLIENT SECRET SUBJECT_TOKEN TYPE AUDIENCE SCOPE
exchange() {
  answer=$(curl -sS "$STS_HTTP/oauth2/token" -u "$1:$2" \
    -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \
    --data-urlencode "subject_token=$3" \
    -d "subject_token_type=urn:ietf:params:oauth:token-type:$4" \
    -d "audience=$5" --data-urlencode "scope=$6")
  token=$(printf '%s' "$answer" | sed -n 's/.*"access_token": *"\([^"]*\)".*/\1/p')
  test -n "$token" || { echo "$1 for $5: $answer" >&2; exit 1; }
  printf '%s\n' "$token"
}

at_gateway=$(exchange gateway "$GATEWAY_SECRET" "$USER_TOKEN" jwt gateway "")
at_orders=$(exchange gateway "$GATEWAY_SECRET" "$at_gateway" access_token orders "orders.write payments.write")
at_payments=$(exchange orders "$ORDERS_SECRET" "$at_orders" access_token payments "payments.write")
printf '%s\n' "$at_gateway" "$at_orders" "$at_payments"
