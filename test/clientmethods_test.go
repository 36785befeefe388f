package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gojose "github.com/go-jose/go-jose/v4"
)

// TestStsctlClientMethods gets tokens by stsctl as clients of every method do that
// have no secret.
func TestStsctlClientMethods(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) *node{
		"with nonces": startNonces, "without nonces": func(t *testing.T) *node { return startDev(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, dir := begin(t), t.TempDir()
			ec, rsa, domain := newSigner(t, "ec", gojose.ES256), newSigner(t, "rsa", gojose.PS256), newIssuer(t)
			n.apply(t, ec.yaml(t)+rsa.yaml(t)+domain.yaml("domain")+`---
kind: Client
name: svid
federated: {issuer: domain, claims: {sub: "spiffe://example.org/a"}}
---
kind: Client
name: job
federated: {issuer: domain, claims: {sub: job-7}}
---
`+ruleFor("svid")+ruleFor("job"))
			write := func(name string, data []byte) string {
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return file
			}
			der, err := x509.MarshalPKCS8PrivateKey(ec.key.Key)
			if err != nil {
				t.Fatal(err)
			}
			jwk, err := rsa.key.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			platform := func(subject string) string {
				return domain.token(t, n, func(_ map[gojose.HeaderKey]any, claims map[string]any) { claims["sub"] = subject })
			}
			proof := []string{"--dpop-key", filepath.Join(dir, "dpop.key")}
			for client, args := range map[string][]string{
				"ec":   append(proof, "--client-id", "ec", "--client-key", write("ec.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "--client-key-id", "ec-1"),
				"rsa":  {"--client-id", "rsa", "--client-key", write("rsa.jwk", jwk)},
				"svid": {"--client-id", "svid", "--client-assertion-file", write("svid.jwt", []byte(platform("spiffe://example.org/a")+"\n"))},
				"job":  append(proof, "--client-id", "job", "--client-assertion-file", write("job.jwt", []byte(platform("job-7")))),
			} {
				out, stderr, code := n.stsctl(t, "", append([]string{"token", "--audience", "demo"}, args...)...)
				if code != 0 {
					t.Errorf("%s: exit code %d, %s", client, code, stderr)
					continue
				}
				if claims := verify(t, n.env["STS_ISSUER"], "demo", strings.TrimSpace(out)); claims["sub"] != client {
					t.Errorf("%s: claims %v", client, claims)
				}
			}
			// By the environment alone, and without naming the client.
			delete(n.env, "STS_CLIENT_SECRET")
			delete(n.env, "STS_CLIENT_ID")
			n.env["STS_CLIENT_ASSERTION"] = platform("job-7")
			if _, stderr, code := n.stsctl(t, "", "token", "--audience", "demo"); code != 0 {
				t.Errorf("by the environment: exit code %d, %s", code, stderr)
			}
		})
	}
}
