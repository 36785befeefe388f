package vault

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestProblem(t *testing.T) {
	said := func(s string) string { return `{"errors":["` + s + `"]}` }
	tests := []struct {
		name string
		code int
		body string
		want Kind
	}{
		{"sealed", 503, said("Vault is sealed"), Sealed},
		{"sealed, says health", 503, `{"initialized":true,"sealed":true,"standby":true}`, Sealed},
		{"uninitialised, says health", 501, `{"initialized":false,"sealed":true,"standby":true}`, Uninitialised},
		{"uninitialised", 503, `{"initialized":false,"sealed":true}`, Uninitialised},
		{"standby, says health", 429, `{"initialized":true,"sealed":false,"standby":true}`, Standby},
		{"standby for reads", 473, `{}`, Standby},
		{"standby for disasters", 472, `{}`, Standby},
		{"standby that redirects", 307, "", Standby},
		{"standby without a leader", 500, said("local node not active but active cluster node not found"), Standby},
		{"standby that stepped down", 503, said("node is not active"), Standby},
		{"standby that lost its leader", 503, said("no active Vault instance found"), Standby},
		{"standby in the middle", 500, said("Vault is in standby mode"), Standby},
		{"rate limit", 429, said(`request path x: rate limit quota exceeded`), Throttled},
		{"rate limit without words", 429, "", Throttled},
		{"denied", 403, said("permission denied"), Denied},
		{"no key", 404, `{"errors":[]}`, NoKey},
		{"no mount", 404, said("no handler for route"), NoKey},
		{"no key to sign with", 400, said("encryption key not found"), NoKey},
		{"no key to sign with, as OpenBao says", 400, said("signing key not found"), NoKey},
		{"no key to rotate", 400, said("no existing key named sts could be found"), NoKey},
		{"bad request", 400, said("invalid hash algorithm"), Refused},
		{"unsupported", 405, said("unsupported operation"), Refused},
		{"secret id", 500, said("invalid secret id"), Refused},
		{"failed", 500, said("internal error"), Failed},
		{"failed without words", 500, "", Failed},
		{"a proxy has no server", 502, "<html>", Unreachable},
		{"a proxy has no server", 503, "<html>", Unreachable},
		{"a proxy waited", 504, "", Unreachable},
		{"a web server", 400, "<html>", Garbage},
		{"a redirect elsewhere", 301, "", Garbage},
		{"a status that is none", 700, "{}", Failed},
		{"success of another kind", 206, "{}", Garbage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := problem(tt.code, http.Header{}, []byte(tt.body), false)
			if e.Kind != tt.want || e.Status != tt.code {
				t.Errorf("got %s with status %d, want %s: %v", e.Kind, e.Status, tt.want, e)
			}
			if text := e.Error(); text == "" || strings.ContainsAny(text, "<>\n") {
				t.Errorf("text %q", text)
			}
		})
	}
}

// TestQuiet: Vault 1.13 repeats the secret id that it refuses.
func TestQuiet(t *testing.T) {
	body := []byte(`{"errors":["invalid secret_id \"s3cr3t\""]}`)
	for _, code := range []int{400, 403, 404, 429, 500, 503} {
		if e := problem(code, http.Header{}, body, true); strings.Contains(e.Error(), "s3cr3t") {
			t.Errorf("status %d: the error has the secret: %v", code, e)
		}
	}
	if e := problem(400, http.Header{}, body, false); !strings.Contains(e.Error(), "s3cr3t") {
		t.Error("what is not quiet says nothing")
	}
}

func TestSentence(t *testing.T) {
	for _, tt := range []struct {
		said []string
		want string
	}{
		{nil, ""},
		{[]string{"1 error occurred:\n\t* permission denied\n\n"}, "1 error occurred: * permission denied"},
		{[]string{"a", "b"}, "a; b"},
		{[]string{"a\x1b[31m\u202ered"}, "a[31mred"},
		{[]string{strings.Repeat("a", 1000)}, strings.Repeat("a", maxSentence) + "..."},
	} {
		if got := sentence(tt.said); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-3": 0, "soon": 0, "600": maxRetryAfter, "99999999999999999999": 0,
		now.Add(7 * time.Second).Format(http.TimeFormat): 7 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):      0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestKind(t *testing.T) {
	down := map[Kind]bool{Unreachable: true, Sealed: true, Standby: true, Uninitialised: true, Failed: true}
	for k := Kind(-1); k <= Garbage+1; k++ {
		if k.Down() != down[k] {
			t.Errorf("%s: down %t", k, k.Down())
		}
		if known := k >= Unreachable && k <= Garbage; known == (k.String() == "unknown") {
			t.Errorf("kind %d is called %s", int(k), k)
		}
	}
}
