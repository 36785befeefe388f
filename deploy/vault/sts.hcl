# What stsd may do in Vault, and nothing else. It cannot read a private key,
# delete a key, change its settings, or make a new one.

# Key set with `vault: {key: sts}`: find the versions, sign, make the next one.
path "transit/keys/sts" {
  capabilities = ["read"]
}
path "transit/sign/sts" {
  capabilities = ["update"]
}
# Leave this out if somebody else rotates the key (auto_rotate_period, say): stsd
# takes over what they make.
path "transit/keys/sts/rotate" {
  capabilities = ["update"]
}

# Key set with `vault_wrapped: {key: sts-wrap}`: encrypt and decrypt signing keys.
path "transit/keys/sts-wrap" {
  capabilities = ["read"]
}
path "transit/encrypt/sts-wrap" {
  capabilities = ["update"]
}
path "transit/decrypt/sts-wrap" {
  capabilities = ["update"]
}
