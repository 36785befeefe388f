// Registration of clients with openid-client, from discovery alone, and what a
// client does with its registration over plain HTTP [RFC 7592].
import * as client from 'openid-client'
import * as jose from 'jose'
import assert from 'node:assert/strict'

const { STS_ISSUER, STS_INITIAL_ACCESS_TOKEN } = process.env
const server = new URL(STS_ISSUER)
const register = (metadata, authentication, initialAccessToken = STS_INITIAL_ACCESS_TOKEN) =>
  client.dynamicClientRegistration(server, metadata, authentication, { initialAccessToken, algorithm: 'oauth2' })

// By a secret, which the answer has.
const bySecret = await register({ client_name: 'by secret', token_endpoint_auth_method: 'client_secret_basic', grant_types: ['client_credentials'], response_types: [] })
const registered = bySecret.clientMetadata()
assert.equal(registered.client_name, 'by secret')
assert.equal(registered.client_secret_expires_at, 0)
const withSecret = await client.discovery(server, registered.client_id, undefined, client.ClientSecretBasic(registered.client_secret), { algorithm: 'oauth2' })
assert.equal((await client.clientCredentialsGrant(withSecret, { audience: 'payments' })).scope, 'payments.read')
console.log('ok: client_secret_basic')

// By a key of its own.
const { publicKey, privateKey } = await jose.generateKeyPair('ES256')
const jwk = { ...(await jose.exportJWK(publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }
const byKey = await register(
  { client_name: 'by key', token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [jwk] }, response_types: [] },
  client.PrivateKeyJwt({ key: privateKey, kid: 'k1' }),
)
assert.equal(byKey.clientMetadata().client_secret, undefined)
assert.equal((await client.clientCredentialsGrant(byKey, { audience: 'payments' })).scope, 'payments.read')
console.log('ok: private_key_jwt')

// What is refused, by the codes of RFC 7591.
const refused = (promise, status, error) => assert.rejects(promise, (err) => {
  assert.equal(err.status, status)
  if (error) assert.equal(err.error, error)
  return true
})
await refused(register({ token_endpoint_auth_method: 'private_key_jwt', jwks_uri: 'https://169.254.169.254/', response_types: [] }), 400, 'invalid_client_metadata')
await refused(register({ grant_types: ['authorization_code'], response_types: ['code'] }), 400, 'invalid_client_metadata')
await refused(register({ software_statement: 'e30.e30.e30', response_types: [] }), 400, 'unapproved_software_statement')
await refused(register({ response_types: [] }, undefined, 'garbage'), 401)
console.log('ok: refusals')

// Its own registration.
const own = (method, body) => fetch(registered.registration_client_uri, {
  method,
  headers: { authorization: `Bearer ${registered.registration_access_token}`, ...(body && { 'content-type': 'application/json' }) },
  body: body && JSON.stringify(body),
})
assert.equal((await (await own('GET')).json()).client_name, 'by secret')
const changed = await (await own('PUT', { client_id: registered.client_id, client_secret: registered.client_secret, client_name: 'changed' })).json()
assert.equal(changed.client_name, 'changed')
assert.equal(changed.client_secret, undefined)
await client.clientCredentialsGrant(withSecret, { audience: 'payments' })
assert.equal((await own('DELETE')).status, 204)
assert.equal((await own('GET')).status, 401)
await assert.rejects(client.clientCredentialsGrant(withSecret, { audience: 'payments' }))
console.log('ok: read, change, delete')
