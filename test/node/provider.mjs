// An OpenID provider of another project. Prints its issuer and an access token
// of its own for the service under test, then serves until it is ended.
import Provider from 'oidc-provider'
import { createServer } from 'node:http'
import { exportJWK, generateKeyPair } from 'jose'

const audience = process.env.STS_ISSUER
const server = createServer()
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const issuer = `http://127.0.0.1:${server.address().port}`
const { privateKey } = await generateKeyPair('RS256', { extractable: true })

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'provider-1' }] },
  clients: [{
    client_id: 'foreign', client_secret: 'foreign-secret', grant_types: ['client_credentials'],
    redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_post',
  }],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      getResourceServerInfo: () => ({ scope: 'api', audience, accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg: 'RS256' } } }),
    },
  },
})
server.on('request', provider.callback())

const response = await fetch(`${issuer}/token`, {
  method: 'POST',
  body: new URLSearchParams({ grant_type: 'client_credentials', client_id: 'foreign', client_secret: 'foreign-secret', resource: audience, scope: 'api' }),
})
const body = await response.json()
if (!body.access_token) {
  console.error(body)
  process.exit(1)
}
console.log(JSON.stringify({ issuer, token: body.access_token }))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
