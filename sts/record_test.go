package sts_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestRecordNamesWhatWasPresented refuses tokens for one reason each: the record
// says whose token it was, as far as that is known, and what was presented and
// expected [T-46].
func TestRecordNamesWhatWasPresented(t *testing.T) {
	const now = 1_800_000_000
	verified := sts.RecordParty{Issuer: "idp", Sub: "user-1", JTI: "jti-1", Exp: now + 600}
	unverified := verified
	unverified.Unverified = true
	for name, tc := range map[string]struct {
		header, claims map[string]any
		typ            sts.TokenType
		spoil          func(*fixture)
		party          sts.RecordParty // besides the hash
		reason         sts.RecordReason
	}{
		"other audience": {
			claims: map[string]any{"aud": []any{"https://other.example.com", "x"}}, party: verified,
			reason: sts.RecordReason{Predicate: "subject_token.aud", Presented: `["https://other.example.com","x"]`, Expected: `"` + selfIssuer + `"`},
		},
		"no audience": {
			claims: map[string]any{"aud": absent}, party: verified,
			reason: sts.RecordReason{Predicate: "subject_token.aud", Presented: "missing", Expected: "such a claim"},
		},
		"expired": {
			claims: map[string]any{"exp": now - 60, "iat": now - 120},
			party:  sts.RecordParty{Issuer: "idp", Sub: "user-1", JTI: "jti-1", Exp: now - 60},
			reason: sts.RecordReason{Predicate: "subject_token.exp", Presented: "1799999940 (2027-01-15T07:59:00Z)", Expected: "after 2027-01-15T07:59:30Z", Hint: "by the clock here that was 1m0s ago, and 30s are allowed for clocks that differ"},
		},
		"not yet valid": {
			claims: map[string]any{"nbf": now + 60}, party: verified,
			reason: sts.RecordReason{Predicate: "subject_token.nbf", Presented: "1800000060 (2027-01-15T08:01:00Z)", Expected: "until 2027-01-15T08:00:30Z", Hint: "by the clock here that is in 1m0s, and 30s are allowed for clocks that differ"},
		},
		"lives too long": {
			claims: map[string]any{"exp": now + 100_000}, party: sts.RecordParty{Issuer: "idp", Sub: "user-1", JTI: "jti-1", Exp: now + 100_000},
			reason: sts.RecordReason{Predicate: "subject_token.exp", Presented: "1800100000 (2027-01-16T11:46:40Z)", Expected: "24h0m0s after 2027-01-15T08:00:00Z"},
		},
		"bad sub": {
			claims: map[string]any{"sub": "user 1"}, party: sts.RecordParty{Issuer: "idp", Sub: "user 1", JTI: "jti-1", Exp: now + 600},
			reason: sts.RecordReason{Predicate: "subject_token.sub", Presented: `"user 1"`, Expected: "a string of such characters"},
		},
		"no jti and a bad sub": {
			claims: map[string]any{"sub": 1, "jti": absent}, party: sts.RecordParty{Issuer: "idp", Exp: now + 600},
			reason: sts.RecordReason{Predicate: "subject_token.sub", Presented: "1", Expected: "a string of such characters"},
		},
		"forbidden act": {
			claims: map[string]any{"act": map[string]any{"sub": "x"}}, party: verified,
			reason: sts.RecordReason{Predicate: "subject_token.act", Presented: `{"sub":"x"}`, Expected: "none, or allow_act in the Issuer"},
		},
		"may_act": {
			claims: map[string]any{"may_act": map[string]any{"sub": "agent-9"}}, party: verified,
			reason: sts.RecordReason{Predicate: "actor_token", Presented: "none", Expected: `iss missing, sub "agent-9", client_id missing`},
		},
		"bound to a key": {
			claims: map[string]any{"cnf": map[string]any{}}, party: verified,
			reason: sts.RecordReason{Predicate: "subject_token.cnf", Presented: "another confirmation", Expected: "none, jkt or x5t#S256"},
		},
		"seconds left": {
			claims: map[string]any{"exp": now + 2}, party: sts.RecordParty{Issuer: "idp", Sub: "user-1", JTI: "jti-1", Exp: now + 2},
			reason: sts.RecordReason{Predicate: "subject_token.exp", Presented: "in 2s", Expected: "in 5s or later"},
		},
		"unknown issuer": {
			claims: map[string]any{"iss": "https://nobody.example.com/x"}, party: sts.RecordParty{Unverified: true},
			reason: sts.RecordReason{Predicate: "subject_token.iss", Presented: `"https://nobody.example.com/x"`, Expected: "that of an Issuer"},
		},
		"no issuer": {
			claims: map[string]any{"iss": absent}, party: sts.RecordParty{Unverified: true},
			reason: sts.RecordReason{Predicate: "subject_token.iss", Presented: "missing, or not a string", Expected: "that of an Issuer"},
		},
		"unknown key": {
			header: map[string]any{"kid": "other"}, party: unverified,
			reason: sts.RecordReason{Predicate: "subject_token.kid", Presented: `"other" for ES256`, Expected: "a key of idp"},
		},
		"wrong key": {
			spoil: func(f *fixture) { f.issuers.signers["idp"] = f.issuers.signers["ci"] }, party: unverified,
			reason: sts.RecordReason{Predicate: "subject_token.signature", Presented: `not of key "idp-1"`, Expected: "of that key of idp"},
		},
		"no algorithm of signatures": {
			header: map[string]any{"alg": "HS256"}, party: sts.RecordParty{Unverified: true},
		},
		"algorithm of another issuer": {
			spoil: func(f *fixture) {
				f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Algorithms: []string{"RS256", "PS256"}}}}})
			}, party: unverified,
			reason: sts.RecordReason{Predicate: "subject_token.alg", Presented: "ES256", Expected: "RS256 or PS256"},
		},
		"type": {
			header: map[string]any{"typ": "dpop+jwt"}, party: unverified,
			reason: sts.RecordReason{
				Predicate: "subject_token.typ", Presented: `"dpop+jwt" declared as jwt`,
				Expected: "at+jwt declared as access_token, or jwt or none declared as jwt or id_token",
			},
		},
		"issuer is down": {spoil: func(f *fixture) { f.issuers.err = errors.New("down") }, party: unverified},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := f.exchange(t)
			claims := map[string]any{"jti": "jti-1"}
			for k, v := range tc.claims {
				claims[k] = v
			}
			r.Subject.Token = f.foreign(t, "idp", tc.header, claims)
			if tc.spoil != nil {
				tc.spoil(f)
			}
			if _, err := f.service.Token(t.Context(), r); err == nil {
				t.Fatal("granted")
			}
			rec := f.audit.last()
			if rec.Client != "web" || rec.Subject == nil {
				t.Fatalf("client %q, subject %v", rec.Client, rec.Subject)
			}
			got := *rec.Subject
			if wantHash := got.Unverified || got.JTI == ""; wantHash != strings.HasPrefix(got.Hash, "sha256:") {
				t.Errorf("hash %q", got.Hash)
			}
			got.Hash = ""
			if a, b := asJSON(t, got), asJSON(t, tc.party); a != b {
				t.Errorf("subject %s, want %s", a, b)
			}
			if tc.reason == (sts.RecordReason{}) {
				return
			}
			if !slices.Contains(rec.Reasons, tc.reason) {
				t.Errorf("reasons %+v, want %+v", rec.Reasons, tc.reason)
			}
		})
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRecordNamesRefusedTokens holds that a token that was never looked into, for
// whatever reason, can be found by its hash.
func TestRecordNamesRefusedTokens(t *testing.T) {
	f := newFixture(t)
	good := f.exchange(t)
	f.token(t, good)
	if rec := f.audit.last(); rec.Event != sts.EventToken || rec.Subject.Hash != "" || rec.Subject.Unverified {
		t.Errorf("granted: event %s for %+v", rec.Event, rec.Subject)
	}
	hashes := map[string]bool{}
	for name, edit := range map[string]func(*sts.TokenRequest){
		"wrong secret":  func(r *sts.TokenRequest) { r.Credential.Secret = canary + "x" },
		"no type":       func(r *sts.TokenRequest) { r.Subject.Type = "" },
		"not a token":   func(r *sts.TokenRequest) { r.Subject.Token = "x.y.z" },
		"two spaces":    func(r *sts.TokenRequest) { r.Scope = "read  write" },
		"no credential": func(r *sts.TokenRequest) { r.Credential = sts.Credential{} },
		"actor": func(r *sts.TokenRequest) {
			r.Actor = sts.Presented{Token: r.Subject.Token + "x", Type: sts.JWT}
		},
	} {
		r := good
		edit(&r)
		if _, err := f.service.Token(t.Context(), r); err == nil {
			t.Fatalf("%s: granted", name)
		}
		rec := f.audit.last()
		party := rec.Subject
		if name == "actor" {
			party = rec.Actor
		}
		if party == nil || !party.Unverified || !strings.HasPrefix(party.Hash, "sha256:") {
			t.Errorf("%s: %+v", name, party)
			continue
		}
		hashes[party.Hash] = true
		if name == "no credential" && party.Issuer != "idp" {
			t.Errorf("%s: %+v", name, party)
		}
	}
	if len(hashes) != 3 {
		t.Errorf("%d hashes of 3 tokens", len(hashes))
	}
}

// TestRecordNamesClient names the client whose authentication failed, if there is
// one, and does not repeat a name that nobody has.
func TestRecordNamesClient(t *testing.T) {
	f := newFixture(t)
	r := f.credentials("web")
	r.Credential.Secret = canary + "x"
	f.assertRefused(t, r, sts.InvalidClient)
	if rec := f.audit.last(); rec.Client != "web" || !strings.HasSuffix(rec.Reason, ": wrong secret") {
		t.Errorf("%+v", rec)
	}
	r.Credential.ClientID = canary
	f.assertRefused(t, r, sts.InvalidClient)
	if rec := f.audit.last(); rec.Client != "" {
		t.Errorf("%+v", rec)
	}
}

// TestRecordRepeatsNothing puts secrets where they do not belong: the record has
// none, whether it is known who asks or not [L-01, promise 7].
func TestRecordRepeatsNothing(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	for what, secret := range map[string]string{
		"client secret": f.secrets["web"], "token": token.Value, "password": "Tr0ub4dor&3", "hex": "d41d8cd98f00b204e9800998ecf8427e", "html": strings.Repeat("<", 40),
	} {
		for name, put := range map[string]func(*sts.TokenRequest){
			"grant_type":           func(r *sts.TokenRequest) { r.Grant = sts.GrantType(secret) },
			"audience":             func(r *sts.TokenRequest) { r.Audiences = []string{secret} },
			"resource":             func(r *sts.TokenRequest) { r.Resources = []string{"https://x.example.com/?t=" + secret} },
			"scope":                func(r *sts.TokenRequest) { r.Scope = secret },
			"scope among others":   func(r *sts.TokenRequest) { r.Scope = "read " + secret },
			"requested_token_type": func(r *sts.TokenRequest) { r.RequestedType = sts.TokenType(secret) },
			"client_id":            func(r *sts.TokenRequest) { r.Credential.ClientID = secret },
			"subject_token": func(r *sts.TokenRequest) {
				r.Grant, r.Subject = sts.TokenExchange, sts.Presented{Token: secret, Type: sts.JWT}
			},
			"subject_token_type": func(r *sts.TokenRequest) {
				r.Grant, r.Subject, r.RequestedType = sts.TokenExchange, sts.Presented{Token: "x", Type: sts.TokenType(secret)}, sts.TokenType(secret)
			},
		} {
			for _, known := range []bool{true, false} {
				r := f.credentials("web")
				if !known {
					r.Credential = sts.Credential{}
				}
				put(&r)
				if _, err := f.service.Token(t.Context(), r); err == nil {
					t.Fatalf("%s as %s: granted", what, name)
				}
				if line := asJSON(t, f.audit.last()); strings.Contains(line, secret) || strings.Contains(line, asJSON(t, secret)) {
					t.Errorf("a %s as %s is in the record: %s", what, name, line)
				}
			}
		}
	}
}

// TestRecordShowsWhatIsDefined holds what operators look for: names that are
// defined, always, and mistyped scopes when it is known who asks.
func TestRecordShowsWhatIsDefined(t *testing.T) {
	f := newFixture(t)
	r := f.credentials("web")
	r.Audiences, r.Scope = []string{"web", "paymets"}, "read raed.all "+canary
	f.assertRefused(t, r, sts.InvalidTarget)
	rec := f.audit.last()
	if rec.AskedAudiences[0] != "web" || !strings.HasSuffix(rec.AskedAudiences[1], " of 7 bytes") {
		t.Errorf("audiences %q", rec.AskedAudiences)
	}
	if len(rec.AskedScopes) != 3 || rec.AskedScopes[0] != "read" || rec.AskedScopes[1] != "raed.all" || !strings.HasPrefix(rec.AskedScopes[2], "sha256:") {
		t.Errorf("scopes %q", rec.AskedScopes)
	}
	r.Credential = sts.Credential{}
	f.assertRefused(t, r, sts.InvalidClient)
	if rec := f.audit.last(); rec.AskedScopes[0] != "read" || !strings.HasSuffix(rec.AskedScopes[1], " of 8 bytes") {
		t.Errorf("scopes %q", rec.AskedScopes)
	}
	r = f.credentials("web")
	r.Scope = "read raed.all"
	f.assertRefused(t, r, sts.InvalidScope)
	if want := (sts.RecordReason{
		Rule: "web-itself", Predicate: "allow.scopes", Presented: "read (one of 8 characters that is not defined)", Expected: "read write",
	}); !slices.Contains(f.audit.last().Reasons, want) {
		t.Errorf("reasons %+v", f.audit.last().Reasons)
	}
	first, _ := f.token(t, func() sts.TokenRequest { r := f.exchange(t); r.Scope = "read"; return r }())
	r = f.next("api", "other", first.Value)
	r.Scope = "write"
	f.assertRefused(t, r, sts.InvalidScope)
	if want := (sts.RecordReason{Predicate: "subject_token.scope", Presented: "read", Expected: "write"}); !slices.Contains(f.audit.last().Reasons, want) {
		t.Errorf("reasons %+v", f.audit.last().Reasons)
	}
}

// TestRecordIsSmall holds that a stranger cannot make a record long.
func TestRecordIsSmall(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("<\x00\u2028\xff", 1000)
	r := sts.TokenRequest{
		Grant: sts.TokenExchange, Audiences: slices.Repeat([]string{long}, 64), Scope: strings.TrimSpace(strings.Repeat("< ", 2000)),
		RequestedType: sts.JWT, Subject: sts.Presented{Token: f.foreign(t, "ci", map[string]any{"kid": strings.Repeat("k", 128)}, map[string]any{
			"sub": strings.Repeat("\u2028", 1000), "jti": strings.Repeat("\u2028", 500),
		}), Type: sts.JWT},
	}
	f.assertRefused(t, r, sts.InvalidRequest)
	if line := asJSON(t, f.audit.last()); len(line) > 4<<10 {
		t.Errorf("%d bytes: %s", len(line), line)
	}
	if n := len(f.audit.last().AskedAudiences); n != 17 {
		t.Errorf("%d audiences", n)
	}
	// Here the signature is good, so what the token says is shown, but not at length.
	r.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"sub": strings.Repeat("\u2028", 1000), "jti": strings.Repeat("\u2028", 500)})
	f.assertRefused(t, r, sts.InvalidRequest)
	if line := asJSON(t, f.audit.last()); len(line) > 8<<10 {
		t.Errorf("%d bytes: %s", len(line), line)
	}
}

// TestRuleNamesAreNames: a rule's name goes into every record of what it grants.
func TestRuleNamesAreNames(t *testing.T) {
	f := newFixture(t)
	for _, r := range []sts.Resource{
		rule("a b", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web")}),
		rule(strings.Repeat("r", 129), policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web")}),
		{Audience: &sts.Audience{Name: "long", Scopes: []string{strings.Repeat("s", 256)}}},
	} {
		_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{r}})
		if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.InvalidResource {
			t.Errorf("%s: %v", r.Ref(), err)
		}
	}
}

// TestCancelledWhileDeciding: a request that ran out of time is not told that a
// rule did not match.
func TestCancelledWhileDeciding(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-itself", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web"), When: "[1, 2, 3].all(a, [1, 2, 3].all(b, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20].all(c, a + b + c > 0)))",
	})}})
	r := f.credentials("web")
	r.Scope = ""
	f.token(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.service.Token(ctx, r)
	if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Unavailable {
		t.Errorf("%v", err)
	}
}

// TestFacts records what decided, and nothing else of the token.
func TestFacts(t *testing.T) {
	f := newFixture(t)
	req := f.exchange(t)
	req.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"email": "user-1@example.com", "level": 7})
	if _, err := f.service.Token(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	rec := f.audit.last()
	line, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(line), "user-1@example.com") || strings.Contains(string(line), req.Subject.Token) {
		t.Errorf("the record has what no rule reads: %s", line)
	}
	read, err := sts.ReadRecord(line)
	if err != nil {
		t.Fatal(err)
	}
	if got := read.Facts.Subject; got == nil || got.Claims["sub"] != "user-1" || got.Issuer != "idp" || read.Facts.Incomplete != "" {
		t.Errorf("facts %+v", read.Facts)
	}
}

// TestExplainDecision finds a decision by its id, and what comes of it now.
func TestExplainDecision(t *testing.T) {
	f := newFixture(t)
	req := f.exchange(t)
	req.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"sub": "User-1"})
	_, err := f.service.Token(t.Context(), req)
	e := &sts.Error{}
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	got, err := f.service.ExplainDecision(t.Context(), e.Decision)
	if err != nil {
		t.Fatal(err)
	}
	if got.Then.Unknown != "" || got.Then.Error == nil || got.Then.Error.Code != e.Code || got.Now != nil || got.Then.Revision != got.Record.Revision {
		t.Fatalf("explained as %+v", got)
	}
	at := slices.IndexFunc(got.Then.Explanation.Rules, func(r policy.RuleTrial) bool { return r.Rule == "web-users" })
	failed := got.Then.Explanation.Rules[at].Failed()
	if len(failed) != 1 || failed[0].Predicate != "subject.claims.sub" || failed[0].Hint == "" {
		t.Errorf("failed %+v", failed)
	}
	if _, err := f.service.ExplainDecision(t.Context(), "unknown"); err == nil || !strings.Contains(err.Error(), "this node does not know") {
		t.Errorf("an unknown decision: %v", err)
	}

	// Another revision is another answer, and both are told apart.
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "User-1"}}, Allow: allow("api", "read"),
	})}})
	got, err = f.service.ExplainDecision(t.Context(), e.Decision)
	if err != nil || got.Now == nil || got.Now.Error != nil || got.Now.Revision == got.Record.Revision {
		t.Errorf("after the change: %+v, %v", got.Now, err)
	}
	if got.Then.Error == nil || got.Then.Error.Code != e.Code || got.Then.Revision != got.Record.Revision {
		t.Errorf("by the revision that decided: %+v", got.Then)
	}
	// A claim that was not recorded cannot be told.
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "x"}}, Allow: allow("api", "read"),
	})}})
	if got, _ = f.service.ExplainDecision(t.Context(), e.Decision); !strings.Contains(got.Now.Unknown, `"team"`) {
		t.Errorf("unknown %q", got.Now.Unknown)
	}
}
