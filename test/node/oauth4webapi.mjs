// Both grants with oauth4webapi, which validates every response strictly, and
// the issued token as a resource server does by RFC 9068.
import * as oauth from 'oauth4webapi'
import assert from 'node:assert/strict'

const { STS_ISSUER, STS_CLIENT_ID, STS_CLIENT_SECRET, STS_AUDIENCE } = process.env
const insecure = { [oauth.allowInsecureRequests]: true }
const accessToken = 'urn:ietf:params:oauth:token-type:access_token'

for (const algorithm of ['oidc', 'oauth2']) {
  const issuer = new URL(STS_ISSUER)
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm, ...insecure }))
  const client = { client_id: STS_CLIENT_ID }

  for (const auth of [oauth.ClientSecretBasic(STS_CLIENT_SECRET), oauth.ClientSecretPost(STS_CLIENT_SECRET)]) {
    const issued = await oauth.processClientCredentialsResponse(
      as, client,
      await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams({ audience: STS_AUDIENCE }), insecure),
    )
    assert.equal(issued.token_type, 'bearer')
    console.log(`ok: client credentials, ${algorithm}`)

    const parameters = new URLSearchParams({
      subject_token: issued.access_token, subject_token_type: accessToken, scope: 'demo.read', audience: STS_AUDIENCE,
    })
    const exchanged = await oauth.processGenericTokenEndpointResponse(
      as, client,
      await oauth.genericTokenEndpointRequest(as, client, auth, 'urn:ietf:params:oauth:grant-type:token-exchange', parameters, insecure),
    )
    assert.equal(exchanged.issued_token_type, accessToken)
    console.log(`ok: token exchange, ${algorithm}`)

    const request = new Request('https://demo.example/', { headers: { authorization: `Bearer ${exchanged.access_token}` } })
    const claims = await oauth.validateJwtAccessToken(as, request, STS_AUDIENCE, insecure)
    assert.equal(claims.scope, 'demo.read')
    assert.equal(claims.client_id, STS_CLIENT_ID)
    console.log(`ok: RFC 9068 validation, ${algorithm}`)
  }

  const wrong = await oauth.clientCredentialsGrantRequest(as, client, oauth.ClientSecretPost('x'.repeat(50)), new URLSearchParams(), insecure)
  assert.equal(wrong.status, 401)
  await assert.rejects(oauth.processClientCredentialsResponse(as, client, wrong))
  console.log(`ok: wrong secret, ${algorithm}`)
}
