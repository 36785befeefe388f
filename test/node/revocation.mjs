// Introspection, plain and as a JWT, and revocation, by clients from discovery
// alone.
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import assert from 'node:assert/strict'

const { STS_ISSUER, STS_CLIENT_ID, STS_CLIENT_SECRET, STS_AUDIENCE } = process.env
const insecure = { [oauth.allowInsecureRequests]: true }
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'

for (const [name, authentication] of Object.entries({
  basic: client.ClientSecretBasic(STS_CLIENT_SECRET),
  post: client.ClientSecretPost(STS_CLIENT_SECRET),
})) {
  const execute = [client.allowInsecureRequests]
  const config = await client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, undefined, authentication, { execute })
  const issued = await client.clientCredentialsGrant(config, { audience: STS_AUDIENCE })
  const found = await client.tokenIntrospection(config, issued.access_token, { token_type_hint: 'access_token' })
  assert.equal(found.active, true)
  assert.equal(found.client_id, STS_CLIENT_ID)
  assert.equal(found.aud, STS_AUDIENCE)
  assert.equal(found.iss, STS_ISSUER)
  assert.equal(found.token_type, 'Bearer')
  assert.equal(found.exp - found.iat, issued.expires_in)
  console.log(`ok: introspection, ${name}`)

  // The response is a JWT, and its signature is verified with the published keys.
  const signed = await client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, { introspection_signed_response_alg: 'ES256' }, authentication, {
    execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks],
  })
  assert.deepEqual(await client.tokenIntrospection(signed, issued.access_token), found)
  assert.deepEqual(await client.tokenIntrospection(signed, 'garbage'), { active: false })
  console.log(`ok: signed introspection, ${name}`)

  // What was exchanged from a token is revoked with it.
  const exchanged = await client.genericGrantRequest(config, 'urn:ietf:params:oauth:grant-type:token-exchange', {
    subject_token: issued.access_token, subject_token_type: accessToken, audience: STS_AUDIENCE,
  })
  assert.equal((await client.tokenIntrospection(config, exchanged.access_token)).active, true)
  await client.tokenRevocation(config, issued.access_token)
  for (const token of [issued.access_token, exchanged.access_token]) {
    assert.deepEqual(await client.tokenIntrospection(config, token), { active: false })
  }
  await client.tokenRevocation(config, issued.access_token, { token_type_hint: 'refresh_token' })
  await client.tokenRevocation(config, 'garbage')
  await assert.rejects(client.genericGrantRequest(config, 'urn:ietf:params:oauth:grant-type:token-exchange', {
    subject_token: issued.access_token, subject_token_type: accessToken, audience: STS_AUDIENCE,
  }))
  console.log(`ok: revocation, ${name}`)
}

const issuer = new URL(STS_ISSUER)
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure))
const c = { client_id: STS_CLIENT_ID }
const wrong = oauth.ClientSecretBasic('x'.repeat(50))
assert.equal((await oauth.introspectionRequest(as, c, wrong, 'x', insecure)).status, 401)
assert.equal((await oauth.revocationRequest(as, c, wrong, 'x', insecure)).status, 401)
console.log('ok: wrong secret')
