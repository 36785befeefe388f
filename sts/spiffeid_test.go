package sts_test

import (
	"strings"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// TestSPIFFEID edits a good SPIFFE ID in one way each. Every error of go-spiffe's
// parser has a row.
func TestSPIFFEID(t *testing.T) {
	long := "spiffe://td/" + strings.Repeat("a", 2048-len("spiffe://td/"))
	for id, good := range map[string]bool{
		"spiffe://td/a":           true,
		"spiffe://td":             true,
		"spiffe://td/A-b_c.9/...": true,
		"spiffe://a_b-c.9/x":      true,
		"spiffe://" + strings.Repeat("t", 255) + "/a": true,
		long:                 true,
		"":                   false,
		"spiffe://":          false,
		"spiffe:///a":        false,
		"spiffe:/td/a":       false,
		"spiffe:td/a":        false,
		"spiffe://td/":       false,
		"spiffe://td/a/":     false,
		"spiffe://td//a":     false,
		"spiffe://td/./a":    false,
		"spiffe://td/../a":   false,
		"spiffe://td/a/..":   false,
		"spiffe://td/%61":    false,
		"spiffe://td/a?q":    false,
		"spiffe://td/a#f":    false,
		"spiffe://td?q":      false,
		"spiffe://td#f":      false,
		"spiffe://td:80/a":   false,
		"spiffe://user@td/a": false,
		"spiffe://TD/a":      false,
		"spiffe://t d/a":     false,
		"spiffe://tdé/a":     false,
		"spiffe://td%61/a":   false,
		"Spiffe://td/a":      false,
		"SPIFFE://td/a":      false,
		"https://td/a":       false,
		" spiffe://td/a":     false,
		"spiffe://td/a ":     false,
		"spiffe://td/a\x00":  false,
		"spiffe://td/a*":     false,
		"spiffe://td/é":      false,
		"spiffe://td/a:b":    false,
		"spiffe://td\\a":     false,
		"spiffe://" + strings.Repeat("t", 256) + "/a": false,
		long + "a":          false,
		"spiffe://td/a\xff": false,
		"spiffe://td/" + strings.Repeat("x/", 5000) + "y": false,
	} {
		t.Run("S-01 "+id[:min(len(id), 40)], func(t *testing.T) {
			got, err := sts.ParseSPIFFEID(id)
			if good != (err == nil) {
				t.Fatalf("%v", err)
			}
			if good && got.String() != id {
				t.Errorf("%q is written as %q", id, got)
			}
			if !good && got != (sts.SPIFFEID{}) {
				t.Errorf("%v beside the error", got)
			}
		})
	}
}

func FuzzSPIFFEID(f *testing.F) {
	for _, seed := range []string{"spiffe://td/a", "spiffe://td", "spiffe://td//", "spiffe://td/%61", "Spiffe://td/a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := sts.ParseSPIFFEID(s)
		if err == nil && id.String() != s {
			t.Errorf("%q is written as %q: two spellings of one", s, id)
		}
		if err == nil && (id.TrustDomain() == "" || strings.ContainsAny(s, "%?#@")) {
			t.Errorf("%q is accepted", s)
		}
	})
}

// FuzzSubjectDN holds that a distinguished name is read in one way or refused.
func FuzzSubjectDN(f *testing.F) {
	for _, seed := range []string{"CN=a,O=b", `CN=a\,b+OU=c`, "2.5.4.3=#0c0161", `CN=\20a\ `, "CN=", "CN=a,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := sts.NewCertificateName(&sts.ClientTLS{SubjectDN: s})
		_, again := sts.NewCertificateName(&sts.ClientTLS{SubjectDN: s})
		if (err == nil) != (again == nil) {
			t.Errorf("%q: %v, then %v", s, err, again)
		}
		if err == nil && strings.ContainsAny(s, "\"<>;\x00") && !strings.Contains(s, `\`) {
			t.Errorf("%q is accepted", s)
		}
	})
}
