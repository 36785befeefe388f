package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/sts"
)

// TestClientKeySources checks where clients say that their keys are.
func TestClientKeySources(t *testing.T) {
	for name, tc := range map[string]struct {
		key  sts.ClientKey
		says string
	}{
		"https":             {sts.ClientKey{JWKSURI: "https://client.example.com/jwks.json"}, ""},
		"http":              {sts.ClientKey{JWKSURI: "http://client.example.com/jwks"}, "jwks_uri must be an https URL"},
		"http, on loopback": {sts.ClientKey{JWKSURI: "http://127.0.0.1:1/jwks", InsecureHTTP: true, AllowNetworks: []string{"127.0.0.0/8"}}, ""},
		"I-02 query":        {sts.ClientKey{JWKSURI: "https://client.example.com/?x"}, "jwks_uri must not have a query"},
		"I-02 user":         {sts.ClientKey{JWKSURI: "https://a@client.example.com/"}, "jwks_uri must not have user information"},
		"bad network":       {sts.ClientKey{JWKSURI: "https://client.example.com", AllowNetworks: []string{"x"}}, "allow_networks"},
		"file":              {sts.ClientKey{JWKSFile: "/etc/sts/orders.jwks"}, ""},
		"relative file":     {sts.ClientKey{JWKSFile: "orders.jwks"}, "jwks_file is not an absolute path"},
		"bad authority":     {sts.ClientKey{JWKSURI: "https://client.example.com", CACertificates: "x"}, "ca_certificates holds no certificate"},
	} {
		err := clientKeys{}.Check(&tc.key)
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

// TestClientKeyFile finds the keys of a client in a file, and of no other client.
func TestClientKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.jwks")
	const jwks = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"k"}]}`
	if err := os.WriteFile(file, []byte(jwks), 0o600); err != nil {
		t.Fatal(err)
	}
	remote := keys.NewRemote(keys.RemoteConfig{})
	defer remote.Close()
	k := clientKeys{remote}
	k.Trust(map[string]*sts.ClientKey{"orders": {JWKSFile: file}})
	for _, kid := range []string{"k", ""} {
		if key, err := k.Key(t.Context(), "orders", kid, jose.EdDSA); err != nil || key.ID != "k" {
			t.Errorf("kid %q: %v, %v", kid, key.ID, err)
		}
	}
	if _, err := k.Key(t.Context(), "orders", "other", jose.EdDSA); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("%v", err)
	}
	if _, err := k.Key(t.Context(), "payments", "k", jose.EdDSA); err == nil {
		t.Error("a client has the keys of another")
	}
}
