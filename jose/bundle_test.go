package jose

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// An EC key, without kid and use.
const ecMembers = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`

func bundle(members string, keys ...string) []byte {
	return []byte("{" + members + `"keys":[` + strings.Join(keys, ",") + "]}")
}

func TestParseBundle(t *testing.T) {
	jwt := func(kid string) string { return fmt.Sprintf(`{%s,"kid":%q,"use":"jwt-svid"}`, ecMembers, kid) }
	x509 := `{` + ecMembers + `,"use":"x509-svid","x5c":["AA=="]}`
	for name, tc := range map[string]struct {
		in       []byte
		keys     int
		left     int
		sequence int64
		hint     time.Duration
	}{
		"one":            {bundle(`"spiffe_sequence":12,"spiffe_refresh_hint":300,`, jwt("a"), x509), 1, 0, 12, 5 * time.Minute},
		"nothing said":   {bundle(``, jwt("a"), jwt("b")), 2, 0, 0, 0},
		"for ever":       {bundle(`"spiffe_refresh_hint":9223372036854775807,`, jwt("a")), 1, 0, 0, 366 * 24 * time.Hour},
		"no kid":         {bundle(``, jwt("a"), `{`+ecMembers+`,"use":"jwt-svid"}`), 1, 1, 0, 0},
		"use sig":        {bundle(``, `{`+ecMembers+`,"kid":"a","use":"sig"}`), 0, 1, 0, 0},
		"use missing":    {bundle(``, `{`+ecMembers+`,"kid":"a"}`), 0, 1, 0, 0},
		"use in capital": {bundle(``, `{`+ecMembers+`,"kid":"a","use":"JWT-SVID"}`), 0, 1, 0, 0},
		"not an object":  {bundle(``, `7`, jwt("a")), 1, 1, 0, 0},
		"symmetric":      {bundle(``, `{"kty":"oct","k":"AA","kid":"a","use":"jwt-svid"}`), 0, 1, 0, 0},
		"certificates":   {bundle(``, x509), 0, 0, 0, 0},
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
