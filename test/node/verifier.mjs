// Verifies the tokens on standard input, one a line, with the key set of an
// issuer, which it caches for exactly as long as it was told. Prints ok or what
// is wrong, a line each.
import { createLocalJWKSet, jwtVerify } from 'jose'
import { createInterface } from 'node:readline'

const [issuer, audience] = process.argv.slice(2)
let keys, until = 0

async function keySet() {
  if (Date.now() >= until) {
    const res = await fetch(`${issuer}/.well-known/jwks.json`)
    if (!res.ok) throw new Error(`key set: status ${res.status}`)
    const age = /max-age=(\d+)/.exec(res.headers.get('cache-control'))
    keys = createLocalJWKSet(await res.json())
    until = Date.now() + (age ? age[1] * 1000 : 0)
  }
  return keys
}

for await (const token of createInterface({ input: process.stdin })) {
  try {
    await jwtVerify(token, await keySet(), { issuer, audience, typ: 'at+jwt' })
    console.log('ok')
  } catch (err) {
    console.log(`${err.code ?? ''} ${err.message}`.replaceAll('\n', ' '))
  }
}
