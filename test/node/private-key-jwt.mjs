// Both grants with openid-client and oauth4webapi, authenticated by private_key_jwt
// with a key of each type.
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

const { STS_ISSUER, STS_AUDIENCE, KEYS_FILE } = process.env
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'
const parameters = {
  ES256: { name: 'ECDSA', namedCurve: 'P-256' },
  EdDSA: { name: 'Ed25519' },
  PS256: { name: 'RSA-PSS', hash: 'SHA-256' },
}

for (const [clientId, { alg, kid, ...jwk }] of Object.entries(JSON.parse(readFileSync(KEYS_FILE, 'utf8')))) {
  delete jwk.use
  const key = await crypto.subtle.importKey('jwk', jwk, parameters[alg], false, ['sign'])
  // The name of EdDSA before RFC 9864 is what servers announce.
  const edit = { [client.modifyAssertion]: (header) => { header.alg = alg } }

  const config = await client.discovery(new URL(STS_ISSUER), clientId, undefined, client.PrivateKeyJwt({ key, kid }, edit), {
    execute: [client.allowInsecureRequests],
  })
  const metadata = config.serverMetadata()
  assert.ok(metadata.token_endpoint_auth_methods_supported.includes('private_key_jwt'))
  assert.ok(metadata.token_endpoint_auth_signing_alg_values_supported.includes(alg))
  const issued = await client.clientCredentialsGrant(config, { audience: STS_AUDIENCE })
  assert.equal(issued.token_type, 'bearer')
  console.log(`ok: client credentials, openid-client, ${alg}`)
  const exchanged = await client.genericGrantRequest(config, 'urn:ietf:params:oauth:grant-type:token-exchange', {
    subject_token: issued.access_token,
    subject_token_type: accessToken,
    audience: STS_AUDIENCE,
  })
  assert.equal(exchanged.issued_token_type, accessToken)
  console.log(`ok: token exchange, openid-client, ${alg}`)

  // The same with the library below, with the typ of the newest draft.
  const as = await oauth
    .discoveryRequest(new URL(STS_ISSUER), { [oauth.allowInsecureRequests]: true })
    .then((response) => oauth.processDiscoveryResponse(new URL(STS_ISSUER), response))
  const authentication = oauth.PrivateKeyJwt({ key, kid }, {
    [oauth.modifyAssertion]: (header) => { header.alg = alg; header.typ = 'client-authentication+jwt' },
  })
  const me = { client_id: clientId }
  const response = await oauth.clientCredentialsGrantRequest(as, me, authentication, { audience: STS_AUDIENCE }, {
    [oauth.allowInsecureRequests]: true,
  })
  await oauth.processClientCredentialsResponse(as, me, response)
  console.log(`ok: client credentials, oauth4webapi, ${alg}`)

  // Addressed to the token endpoint, as older libraries do.
  const older = client.PrivateKeyJwt({ key, kid }, {
    [client.modifyAssertion]: (header, payload) => { header.alg = alg; payload.aud = metadata.token_endpoint },
  })
  const olderConfig = await client.discovery(new URL(STS_ISSUER), clientId, undefined, older, { execute: [client.allowInsecureRequests] })
  await assert.rejects(client.clientCredentialsGrant(olderConfig, { audience: STS_AUDIENCE }))
  console.log(`ok: refused for the token endpoint, ${alg}`)
}
