package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestVerify holds a token against everything that a verifier checks. Each row
// is the good token and the good issuer with one edit.
func TestVerify(t *testing.T) {
	clean(t)
	f := startFakeFor(t)
	const metadata, keys = "/.well-known/openid-configuration", "/.well-known/jwks.json"
	answers := map[string]string{} // what the issuer says instead
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, ok := answers[r.URL.Path]; ok {
			_, _ = w.Write([]byte(body)) // the client may have gone
			return
		}
		http.Redirect(w, r, f.issuer+r.URL.Path, http.StatusFound)
	}))
	defer front.Close()
	own := `{"issuer":"` + front.URL + `","jwks_uri":"`
	for _, row := range []struct {
		name    string
		claims  map[string]any    // over the good claims; nil removes
		answers map[string]string // over the good answers
		code    int
		want    string // in the message
	}{
		{"the good token", nil, nil, exitOK, ""},
		{"several audiences", map[string]any{"aud": []string{"other", "payments"}}, nil, exitOK, ""},
		{"a clock a little ahead", map[string]any{"nbf": time.Now().Add(10 * time.Second).Unix()}, nil, exitOK, ""},
		{"another audience", map[string]any{"aud": []string{"other", "others"}}, nil, exitUnverified, "the token is for other, others, not for payments"},
		{"no audience", map[string]any{"aud": nil}, nil, exitUnverified, "not for payments"},
		{"no issuer", map[string]any{"iss": nil}, nil, exitUnverified, "the token has no issuer (iss)"},
		{"not valid yet", map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}, nil, exitUnverified, "not valid yet (nbf)"},
		{"a time that is none", map[string]any{"nbf": "soon"}, nil, exitUnverified, "not valid yet (nbf)"},

		{"document of another issuer", nil, map[string]string{metadata: `{"issuer":"https://other.example"}`}, exitUnverified, "which is another"},
		{"document without jwks_uri", nil, map[string]string{metadata: own + `"}`}, exitUnverified, "has no jwks_uri"},
		{"document that is not JSON", nil, map[string]string{metadata: "<html>"}, exitUnverified, "is not a JSON document"},
		{"document of 1 MB", nil, map[string]string{metadata: strings.Repeat(" ", 1<<20)}, exitUnverified, "is larger than 256 KiB"},
		{"keys over plain http", nil, map[string]string{metadata: own + `http://keys.example/jwks"}`}, exitUnverified, "is not an https URL"},
		{"keys with a password", nil, map[string]string{metadata: own + `https://a:b@keys.example/jwks"}`}, exitUnverified, "is not an https URL"},
		{"keys from a file", nil, map[string]string{metadata: own + `file:///etc/passwd"}`}, exitUnverified, "is not an https URL"},
		{"keys behind a redirect", nil, map[string]string{metadata: own + front.URL + `/elsewhere"}`}, exitUnavailable, "302 Found"},
		{"keys that are none", nil, map[string]string{metadata: own + front.URL + keys + `"}`, keys: "[]"}, exitUnverified, "is not a key set"},
		{"no such key", nil, map[string]string{metadata: own + front.URL + keys + `"}`, keys: `{"keys":[]}`}, exitUnverified, "does not publish the key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			answers = map[string]string{metadata: own + f.issuer + keys + `"}`}
			maps.Copy(answers, row.answers)
			claims := map[string]any{"iss": front.URL, "sub": "s", "aud": "payments"}
			for name, v := range row.claims {
				if claims[name] = v; v == nil {
					delete(claims, name)
				}
			}
			token := f.sign("at+jwt", time.Minute, claims)
			code, stdout, stderr := ctl(t.Context(), token, "inspect", "-", "--issuer", front.URL, "--audience", "payments")
			if code != row.code || !strings.Contains(stderr, row.want) || !strings.Contains(stdout, "  sub  ") {
				t.Errorf("exit code %d, %q\n%s", code, stderr, stdout)
			}
			if verified := strings.HasPrefix(stdout, "verified: "); verified != (row.code == exitOK) {
				t.Errorf("says %q", stdout)
			}
		})
	}
}

// TestUnreachableIssuer holds that a dead issuer is told from a bad token.
func TestUnreachableIssuer(t *testing.T) {
	clean(t)
	f := startFakeFor(t)
	token := f.sign("JWT", time.Minute, map[string]any{"iss": "http://127.0.0.1:1"})
	code, _, stderr := ctl(t.Context(), "", "inspect", "--verify", token)
	if code != exitUnavailable || !strings.Contains(stderr, "cannot reach the issuer") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}
