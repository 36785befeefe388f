#!/bin/sh
# Sets Vault up for stsd: transit keys, a policy that allows no more than is
# needed, an AppRole. Nothing that is there already is changed, except the policy
# and the role, which are written anew.
#
#   VAULT_ADDR=https://vault.example.com:8200 VAULT_TOKEN=... ./setup.sh DIR
#
# The token must be allowed to do this; stsd never sees it. Afterwards DIR holds
# role-id and secret-id for stsd. VAULT_NAMESPACE and VAULT_CACERT are used if
# they are set. Needs curl.
set -eu
here=$(dirname "$0")
dir=${1:?"usage: setup.sh DIR: where to put role-id and secret-id"}
: "${VAULT_ADDR:?set VAULT_ADDR, such as https://vault.example.com:8200}" "${VAULT_TOKEN:?set VAULT_TOKEN}"

# call METHOD PATH [JSON]: prints the answer, or says what Vault did not like. The
# token is handed over on standard input, where `ps` does not see it.
call() {
	answer=$(printf 'header = "X-Vault-Token: %s"\n' "$VAULT_TOKEN" |
		curl -sS -K - ${VAULT_CACERT:+--cacert "$VAULT_CACERT"} ${VAULT_NAMESPACE:+-H "X-Vault-Namespace: $VAULT_NAMESPACE"} \
			-X "$1" -w '\n%{http_code}' ${3:+-d "$3"} "$VAULT_ADDR/v1/$2")
	case $(printf '%s' "$answer" | tail -n 1) in
	2??) printf '%s' "$answer" | sed '$d' ;;
	*)
		echo "setup.sh: $1 $2: $answer" >&2
		return 1
		;;
	esac
}

# there PATH: whether Vault has something there.
there() { call GET "$1" >/dev/null 2>&1; }

# member NAME: the value of a string member of the JSON on standard input.
member() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p'; }

there sys/mounts/transit/tune || call POST sys/mounts/transit '{"type":"transit"}' >/dev/null
there transit/keys/sts || call POST transit/keys/sts '{"type":"ecdsa-p256"}' >/dev/null
there transit/keys/sts-wrap || call POST transit/keys/sts-wrap '{"type":"aes256-gcm96"}' >/dev/null

policy=$(sed -e '/^#/d' -e 's/"/\\"/g' "$here/sts.hcl" | tr '\n' ' ')
call PUT sys/policies/acl/sts "{\"policy\":\"$policy\"}" >/dev/null

there sys/auth/approle/tune || call POST sys/auth/approle '{"type":"approle"}' >/dev/null
# An hour at a time, renewed without end; the batch of secret ids is the operator's
# to bound (secret_id_ttl, secret_id_bound_cidrs).
call POST auth/approle/role/sts '{"token_policies":["sts"],"token_ttl":"1h","token_period":"1h"}' >/dev/null

umask 077
mkdir -p "$dir"
call GET auth/approle/role/sts/role-id | member role_id >"$dir/role-id"
call POST auth/approle/role/sts/secret-id | member secret_id >"$dir/secret-id"
test -s "$dir/role-id" && test -s "$dir/secret-id"

cat <<END
Vault is ready. In the configuration of stsd:

keys:
  vault:
    addresses: [$VAULT_ADDR]
    login:
      app_role: {role_id: $(cat "$dir/role-id"), secret_id_file: $dir/secret-id}
  sets:
    - name: default
      vault: {key: sts}
END
