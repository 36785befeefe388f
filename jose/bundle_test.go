package jose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// An EC key, without kid and use.
const ecMembers = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`

func bundle(members string, keys ...string) []byte {
	return []byte("{" + members + `"keys":[` + strings.Join(keys, ",") + "]}")
}

// certificate is one of some authority, in base64.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func TestParseBundle(t *testing.T) {
	jwt := func(kid string) string { return fmt.Sprintf(`{%s,"kid":%q,"use":"jwt-svid"}`, ecMembers, kid) }
	cert := certificate(t)
	svid := func(x5c string) string { return `{` + ecMembers + `,"use":"x509-svid"` + x5c + `}` }
	good := svid(fmt.Sprintf(`,"x5c":[%q]`, cert))
	for name, tc := range map[string]struct {
		in       []byte
		keys     int
		left     int
		sequence int64
		hint     time.Duration
	}{
		"one":            {bundle(`"spiffe_sequence":12,"spiffe_refresh_hint":300,`, jwt("a"), good), 1, 0, 12, 5 * time.Minute},
		"nothing said":   {bundle(``, jwt("a"), jwt("b")), 2, 0, 0, 0},
		"for ever":       {bundle(`"spiffe_refresh_hint":9223372036854775807,`, jwt("a")), 1, 0, 0, 366 * 24 * time.Hour},
		"no kid":         {bundle(``, jwt("a"), `{`+ecMembers+`,"use":"jwt-svid"}`), 1, 1, 0, 0},
		"use sig":        {bundle(``, `{`+ecMembers+`,"kid":"a","use":"sig"}`), 0, 1, 0, 0},
		"use missing":    {bundle(``, `{`+ecMembers+`,"kid":"a"}`), 0, 1, 0, 0},
		"use in capital": {bundle(``, `{`+ecMembers+`,"kid":"a","use":"JWT-SVID"}`), 0, 1, 0, 0},
		"not an object":  {bundle(``, `7`, jwt("a")), 1, 1, 0, 0},
		"symmetric":      {bundle(``, `{"kty":"oct","k":"AA","kid":"a","use":"jwt-svid"}`), 0, 1, 0, 0},
		"certificates":   {bundle(``, good), 0, 0, 0, 0},
		"no x5c":         {bundle(``, svid("")), 0, 1, 0, 0},
		"two in x5c":     {bundle(``, svid(fmt.Sprintf(`,"x5c":[%q,%q]`, cert, cert))), 0, 1, 0, 0},
		"base64url":      {bundle(``, svid(fmt.Sprintf(`,"x5c":[%q]`, strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(cert), "=")+"_"))), 0, 1, 0, 0},
		"J-42 CR in x5c": {bundle(``, svid(fmt.Sprintf(`,"x5c":[%q]`, cert[:8]+"\r"+cert[8:]))), 0, 1, 0, 0},
		"no certificate": {bundle(``, svid(`,"x5c":["AA=="]`)), 0, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, left, err := ParseBundle(tc.in)
			if err != nil || b.Keys.Len() != tc.keys || len(left) != tc.left || b.Sequence != tc.sequence || b.RefreshHint != tc.hint {
				t.Errorf("%d keys, sequence %d, hint %s, left %v, %v", b.Keys.Len(), b.Sequence, b.RefreshHint, left, err)
			}
		})
	}
	for name, in := range map[string][]byte{
		"J-26 kid twice":       bundle(``, jwt("a"), jwt("a")),
		"sequence a string":    bundle(`"spiffe_sequence":"12",`, jwt("a")),
		"sequence below zero":  bundle(`"spiffe_sequence":-1,`, jwt("a")),
		"hint a fraction":      bundle(`"spiffe_refresh_hint":0.5,`, jwt("a")),
		"sequence twice":       bundle(`"spiffe_sequence":1,"spiffe_sequence":2,`, jwt("a")),
		"no keys":              []byte(`{}`),
		"not JSON":             []byte(`<html>`),
		"something behind":     append(bundle(``, jwt("a")), "{}"...),
		"I-15 more than bound": bundle(``, strings.Repeat("{},", 100)+"{}"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := ParseBundle(in); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// FuzzBundle holds that no bundle panics, and that what it yields has ids.
func FuzzBundle(f *testing.F) {
	f.Add(bundle(`"spiffe_sequence":1,"spiffe_refresh_hint":2,`, `{`+ecMembers+`,"kid":"a","use":"jwt-svid"}`))
	f.Add(bundle(``, `{`+ecMembers+`,"use":"x509-svid"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, _, err := ParseBundle(in)
		if err != nil {
			return
		}
		if b.RefreshHint < 0 || b.Sequence < 0 {
			t.Errorf("sequence %d, hint %s", b.Sequence, b.RefreshHint)
		}
		for k := range b.Keys.All() {
			if k.ID == "" {
				t.Error("a key without id")
			}
		}
	})
}
