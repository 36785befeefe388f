// Both grants with DPoP, by openid-client and by oauth4webapi. The server may
// demand a nonce, which the libraries learn from its answers.
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

const { STS_ISSUER, STS_CLIENT_ID, STS_CLIENT_SECRET, STS_AUDIENCE } = process.env
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'
const exchange = 'urn:ietf:params:oauth:grant-type:token-exchange'

const claims = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'))
const ath = (token) => createHash('sha256').update(token).digest('base64url')

for (const alg of ['ES256', 'EdDSA', 'PS256']) {
  const keys = await client.randomDPoPKeyPair(alg === 'EdDSA' ? 'Ed25519' : alg)
  // The token that is exchanged is bound, so the proof has to name it, which the
  // library does at resource servers only.
  let subject
  const options = {
    [client.modifyAssertion]: (header, payload) => {
      if (header.alg === 'Ed25519') header.alg = 'EdDSA'
      if (subject) payload.ath = ath(subject)
    },
  }
  const config = await client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, undefined, client.ClientSecretBasic(STS_CLIENT_SECRET), {
    execute: [client.allowInsecureRequests],
  })
  assert.ok(config.serverMetadata().dpop_signing_alg_values_supported.includes(alg))
  const DPoP = client.getDPoPHandle(config, keys, options)
  const issued = await client.clientCredentialsGrant(config, { audience: STS_AUDIENCE }, { DPoP })
  assert.equal(issued.token_type, 'dpop')
  assert.equal(claims(issued.access_token).cnf.jkt, await DPoP.calculateThumbprint())
  console.log(`ok: client credentials, openid-client, ${alg}`)

  const parameters = { subject_token: issued.access_token, subject_token_type: accessToken, audience: STS_AUDIENCE, scope: 'demo.read' }
  await assert.rejects(client.genericGrantRequest(config, exchange, parameters), { error: 'invalid_dpop_proof' })
  await assert.rejects(client.genericGrantRequest(config, exchange, parameters, { DPoP }), { error: 'invalid_dpop_proof' })
  subject = issued.access_token
  const exchanged = await client.genericGrantRequest(config, exchange, parameters, { DPoP })
  assert.equal(exchanged.token_type, 'dpop')
  assert.equal(claims(exchanged.access_token).cnf.jkt, claims(issued.access_token).cnf.jkt)
  console.log(`ok: token exchange, openid-client, ${alg}`)
}

const insecure = { [oauth.allowInsecureRequests]: true }
const as = await oauth.processDiscoveryResponse(new URL(STS_ISSUER), await oauth.discoveryRequest(new URL(STS_ISSUER), insecure))
const own = { client_id: STS_CLIENT_ID }
const keys = await oauth.generateKeyPair('ES256')
const DPoP = oauth.DPoP(own, keys)
const request = () => oauth.clientCredentialsGrantRequest(
  as, own, oauth.ClientSecretPost(STS_CLIENT_SECRET), new URLSearchParams({ audience: STS_AUDIENCE }), { DPoP, ...insecure },
)
const answered = async () => oauth.processClientCredentialsResponse(as, own, await request())
const issued = await answered().catch((err) => {
  if (!oauth.isDPoPNonceError(err)) throw err
  return answered()
})
assert.equal(issued.token_type, 'dpop')

// As a resource server checks it [RFC 9068, RFC 9449 section 4.3].
const url = 'https://demo.example/'
const jwk = await crypto.subtle.exportKey('jwk', keys.publicKey)
const b64 = (v) => Buffer.from(typeof v === 'string' ? v : JSON.stringify(v)).toString('base64url')
const input = `${b64({ alg: 'ES256', typ: 'dpop+jwt', jwk: { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y } })}.${b64({
  jti: crypto.randomUUID(), htm: 'GET', htu: url, iat: Math.floor(Date.now() / 1000), ath: ath(issued.access_token),
})}`
const signature = await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, keys.privateKey, Buffer.from(input))
const resource = new Request(url, {
  headers: { authorization: `DPoP ${issued.access_token}`, dpop: `${input}.${Buffer.from(signature).toString('base64url')}` },
})
const valid = await oauth.validateJwtAccessToken(as, resource, STS_AUDIENCE, insecure)
assert.equal(valid.cnf.jkt, claims(issued.access_token).cnf.jkt)
console.log('ok: resource server, oauth4webapi')
