package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzDenyAndMappings has a claim of any kind stop a request, give it a scope, and
// become its subject.
func FuzzDenyAndMappings(f *testing.F) {
	for _, claims := range []string{
		`{"state": "locked"}`, `{"state": ["open", "locked"]}`, `{"state": {"locked": true}}`, `{"state": null}`, `{"state": 1}`, `{"state": 1.0}`,
		`{"state": [[["locked"]]]}`, `{"State": "locked"}`, `{}`, `{"state": "locked ", "id": "a:b"}`, `{"id": "ext:admin"}`, `{"id": 7}`, `{"id": ""}`,
	} {
		f.Add([]byte(claims), "locked")
	}
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		var claims map[string]any
		if json.Unmarshal(data, &claims) != nil || strings.Contains(value, "*") {
			return
		}
		w, r := exchange()
		w.Issuers["ext"] = "https://ext.example"
		audience := w.Audiences[0]
		subject := &Party{Issuer: "ext"}
		who := w.Rules[0].Requester
		denied := Rule{Name: "denies", Subject: &Party{Issuer: "ext", Claims: map[string]any{"state": value}}, Deny: &Deny{}}
		w.Rules = []Rule{{
			Name: "allows", Requester: who, Subject: subject,
			Allow: Allow{
				Audiences: []string{audience.Name}, Sub: "subject.claims.id",
				ScopesFromClaims: []ScopesForValue{{Claim: "state", Value: value, Scopes: audience.Scopes[:1]}},
			},
		}}
		r.Subject.Issuer, r.Subject.Iss, r.Subject.Claims, r.Scopes, r.Subject.Act = "ext", "https://ext.example", claims, nil, nil
		r.Targets = []string{audience.Name}
		s, problems := Compile(w)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		g, err := s.Decide(t.Context(), r)
		if has := holds(claims["state"], value); err == nil && !has {
			t.Errorf("a scope for %v", claims["state"])
		}
		if err == nil {
			id, _ := claims["id"].(string)
			if g.Subject() != "ext:"+id || !ValidSubject(id) || len(g.Scopes()) != 1 {
				t.Errorf("sub %q of %v, scopes %v", g.Subject(), claims["id"], g.Scopes())
			}
		}
		w.Rules = append(w.Rules, denied)
		if s, problems = Compile(w); len(problems) > 0 {
			t.Fatal(problems)
		}
		if _, err := s.Decide(t.Context(), r); err == nil {
			t.Errorf("granted though the rule denies %v", claims["state"])
		}
		e := s.Explain(t.Context(), r)
		if shown := len(e.Denials) > 0; shown != holds(claims["state"], value) {
			t.Errorf("explained as denied: %v, for %v", shown, claims["state"])
		}
	})
}
