// Both grants with openid-client, from discovery alone.
import * as client from 'openid-client'
import assert from 'node:assert/strict'

const { STS_ISSUER, STS_CLIENT_ID, STS_CLIENT_SECRET, STS_AUDIENCE } = process.env
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'

for (const [name, authentication] of Object.entries({
  basic: client.ClientSecretBasic(STS_CLIENT_SECRET),
  post: client.ClientSecretPost(STS_CLIENT_SECRET),
})) {
  for (const algorithm of ['oidc', 'oauth2']) {
    const config = await client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, undefined, authentication, {
      algorithm,
      execute: [client.allowInsecureRequests],
    })
    const issued = await client.clientCredentialsGrant(config, { audience: STS_AUDIENCE })
    assert.equal(issued.token_type, 'bearer')
    assert.equal(typeof issued.expires_in, 'number')
    assert.equal(issued.refresh_token, undefined)
    console.log(`ok: client credentials, ${name}, ${algorithm}`)

    const exchanged = await client.genericGrantRequest(config, 'urn:ietf:params:oauth:grant-type:token-exchange', {
      subject_token: issued.access_token,
      subject_token_type: accessToken,
      audience: STS_AUDIENCE,
      scope: 'demo.read',
    })
    assert.equal(exchanged.issued_token_type, accessToken)
    assert.equal(exchanged.scope, 'demo.read')
    assert.ok(exchanged.expires_in <= issued.expires_in)
    console.log(`ok: token exchange, ${name}, ${algorithm}`)
  }
}

const config = await client.discovery(new URL(STS_ISSUER), STS_CLIENT_ID, undefined, client.ClientSecretBasic('x'.repeat(50)), {
  execute: [client.allowInsecureRequests],
})
await assert.rejects(client.clientCredentialsGrant(config, { audience: STS_AUDIENCE }), (err) => {
  assert.equal(err.error ?? err.cause?.[0]?.scheme, 'basic')
  return true
}).catch(async () => {
  // openid-client reports a 401 with WWW-Authenticate as a challenge.
  await assert.rejects(client.clientCredentialsGrant(config, { audience: STS_AUDIENCE }), { code: 'OAUTH_WWW_AUTHENTICATE_CHALLENGE' })
})
console.log('ok: wrong secret')
