// Both grants with openid-client and a TLS client certificate [RFC 8705].
import * as client from 'openid-client'
import assert from 'node:assert/strict'
import https from 'node:https'
import { readFileSync } from 'node:fs'

const { STS_ISSUER, STS_CLIENT_ID, STS_AUDIENCE, CERT, KEY } = process.env
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'

// The built-in fetch has no client certificates, node:https has.
const fetchWith = (options) => {
  const agent = new https.Agent({ keepAlive: false, ...options })
  return (url, { method, headers, body }) =>
    new Promise((resolve, reject) => {
      const req = https.request(url, { method, headers: Object.fromEntries(new Headers(headers)), agent }, (res) => {
        const chunks = []
        res.on('data', (c) => chunks.push(c))
        res.on('end', () => resolve(new Response(Buffer.concat(chunks), { status: res.statusCode, headers: res.headers })))
      })
      req.on('error', reject)
      req.end(body?.toString())
    })
}

const discover = (options) =>
  client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, undefined, client.TlsClientAuth(), {
    algorithm: 'oauth2',
    [client.customFetch]: fetchWith(options),
  })

const config = await discover({ cert: readFileSync(CERT), key: readFileSync(KEY) })
const methods = config.serverMetadata().token_endpoint_auth_methods_supported
assert.ok(methods.includes('tls_client_auth') && methods.includes('self_signed_tls_client_auth'))
const issued = await client.clientCredentialsGrant(config, { audience: STS_AUDIENCE })
assert.equal(issued.token_type, 'bearer')
console.log('ok: client credentials')

const exchanged = await client.genericGrantRequest(config, 'urn:ietf:params:oauth:grant-type:token-exchange', {
  subject_token: issued.access_token,
  subject_token_type: accessToken,
  audience: STS_AUDIENCE,
})
assert.equal(exchanged.issued_token_type, accessToken)
console.log('ok: token exchange')

const without = await discover({})
await assert.rejects(client.clientCredentialsGrant(without, { audience: STS_AUDIENCE }), (err) => {
  assert.equal(err.status ?? err.response?.status ?? err.cause?.status, 401)
  return true
})
console.log('ok: no certificate')
