package sts_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/sts"
)

// TestClientAuthentication edits a good client credentials request in one way
// each.
func TestClientAuthentication(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*fixture, *sts.TokenRequest)
		code sts.Code
	}{
		"good":                    {},
		"none":                    {func(_ *fixture, r *sts.TokenRequest) { r.Credential = sts.Credential{} }, sts.InvalidClient},
		"unknown client":          {func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "nobody" }, sts.InvalidClient},
		"wrong secret":            {func(_ *fixture, r *sts.TokenRequest) { r.Credential.Secret = canary + "x" }, sts.InvalidClient},
		"secret of another":       {func(f *fixture, r *sts.TokenRequest) { r.Credential.Secret = f.secrets["api"] }, sts.InvalidClient},
		"A-22 empty secret":       {func(_ *fixture, r *sts.TokenRequest) { r.Credential.Secret = "" }, sts.InvalidClient},
		"A-22 empty id":           {func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "" }, sts.InvalidClient},
		"A-43 other case":         {func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "Web" }, sts.InvalidClient},
		"A-43 trailing space":     {func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "web " }, sts.InvalidClient},
		"secret cut":              {func(_ *fixture, r *sts.TokenRequest) { r.Credential.Secret = r.Credential.Secret[:20] }, sts.InvalidClient},
		"secret with more behind": {func(_ *fixture, r *sts.TokenRequest) { r.Credential.Secret += "x" }, sts.InvalidClient},
		"client without a rule for itself": {func(f *fixture, r *sts.TokenRequest) {
			*r = f.credentials("api")
		}, sts.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := f.credentials("web")
			if tc.edit != nil {
				tc.edit(f, &r)
			}
			if tc.code == "" {
				token, claims := f.token(t, r)
				if claims["sub"] != "web" || claims["client_id"] != "web" || claims["act"] != nil || token.Scheme != "Bearer" {
					t.Errorf("claims %v", claims)
				}
				return
			}
			f.assertRefused(t, r, tc.code)
			f.token(t, f.credentials("web"))
		})
	}
}

// TestFailuresLookTheSame holds that an answer does not tell an unknown client, a
// disabled one and a wrong or expired secret apart.
func TestFailuresLookTheSame(t *testing.T) {
	f := newFixture(t)
	expired, hash := sts.NewSecret()
	off, offHash := sts.NewSecret()
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "old", Secrets: []sts.ClientSecret{{Hash: hash, NotAfter: f.now}}}},
		{Client: &sts.Client{Name: "off", Disabled: true, Secrets: []sts.ClientSecret{{Hash: offHash}}}},
	}})
	var messages []string
	for _, c := range []sts.Credential{
		{Method: sts.SecretBasic, ClientID: "nobody", Secret: canary}, {Method: sts.SecretBasic, ClientID: "web", Secret: canary},
		{Method: sts.SecretBasic, ClientID: "old", Secret: expired}, {Method: sts.SecretBasic, ClientID: "off", Secret: off},
	} {
		r := f.credentials("web")
		r.Credential = c
		messages = append(messages, f.assertRefused(t, r, sts.InvalidClient).Message)
		if reason := f.audit.last().Reason; !strings.Contains(reason, ": ") {
			t.Errorf("the record of %q does not say what was wrong: %q", c.ClientID, reason)
		}
	}
	if slices.Sort(messages); len(slices.Compact(messages)) != 1 {
		t.Errorf("the answers differ: %q", messages)
	}
}

// TestTwoSecrets replaces a secret without an interruption.
func TestTwoSecrets(t *testing.T) {
	f := newFixture(t)
	first, firstHash := sts.NewSecret()
	second, secondHash := sts.NewSecret()
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "web", Secrets: []sts.ClientSecret{
		{Hash: firstHash, NotAfter: f.now.Add(time.Hour)}, {Hash: secondHash},
	}}}}})
	with := func(secret string) sts.TokenRequest {
		r := f.credentials("web")
		r.Credential.Secret = secret
		return r
	}
	f.token(t, with(first))
	f.token(t, with(second))
	f.now = f.now.Add(time.Hour)
	f.assertRefused(t, with(first), sts.InvalidClient)
	f.token(t, with(second))
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "web", Disabled: true, Secrets: []sts.ClientSecret{{Hash: secondHash}}}}}})
	f.assertRefused(t, with(second), sts.InvalidClient)
}

// TestSecretHash holds what a hash is good for.
func TestSecretHash(t *testing.T) {
	if _, err := sts.HashSecret(strings.Repeat("x", sts.MinSecretLength-1)); err == nil {
		t.Error("a short secret is hashed")
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringN(sts.MinSecretLength, 200, -1).Draw(t, "secret")
		hash, err := sts.HashSecret(secret)
		if len(secret) < sts.MinSecretLength {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := sts.HashSecret(secret)
		if err != nil || again == hash {
			t.Fatalf("two hashes of one secret are %q and %q, %v: no salt", hash, again, err)
		}
		c := sts.Client{Secrets: []sts.ClientSecret{{Hash: hash}}}
		if !c.Proves(secret) || c.Proves(secret+"x") || c.Proves("") {
			t.Fatal("the hash does not tell its secret from another")
		}
		if strings.Contains(hash, secret) {
			t.Fatal("the hash contains the secret")
		}
	})
}

// TestAuthenticationTime compares how long an unknown client and a wrong secret
// take, in pairs. A noisy machine gets three tries.
func TestAuthenticationTime(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what things cost")
	}
	f := newFixture(t)
	wrong, unknown := f.credentials("web"), f.credentials("web")
	wrong.Credential.Secret = canary + "wrong"
	unknown.Credential.ClientID, unknown.Credential.Secret = "nob", canary+"wrong"
	addresses := 0
	took := func(r sts.TokenRequest) time.Duration {
		r.Source.Peer = fmt.Sprint("host-", addresses) // a burst from one is slowed down
		addresses++
		begin := time.Now()
		f.service.Token(t.Context(), r)
		return time.Since(begin)
	}
	var difference float64
	for range 3 {
		var a, b []time.Duration
		for i := range 8000 {
			if i%2 == 0 {
				a, b = append(a, took(wrong)), append(b, took(unknown))
			} else {
				b, a = append(b, took(unknown)), append(a, took(wrong))
			}
		}
		slices.Sort(a)
		slices.Sort(b)
		x, y := float64(a[len(a)/2]), float64(b[len(b)/2])
		if difference = (x - y) / y; difference > -0.05 && difference < 0.05 {
			t.Logf("medians %s and %s", a[len(a)/2], b[len(b)/2])
			return
		}
		f.audit.records = nil
	}
	t.Errorf("a wrong secret takes %.1f %% longer than an unknown client", 100*difference)
}
