package sts_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestPlatformTokens presents tokens that are not quite those of a safe rule. Each
// row is the recorded token with one edit.
func TestPlatformTokens(t *testing.T) {
	type edits = map[string]any
	k8s := func(namespace, account any) map[string]any {
		return map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": account, "uid": "a087"}, "warnafter": 1}
	}
	for _, tc := range []struct {
		id, preset, recorded string
		edit                 func(r *policy.Rule) // of the safe rule
		token                edits
		granted              bool
	}{
		{"H-02 old form of sub", "github-actions", "github-actions", nil, nil, true},
		{"H-03 form of sub with ids", "github-actions", "github-actions-immutable", nil, nil, true},
		{"H-02 exact sub", "github-actions", "github-actions", func(r *policy.Rule) { r.Subject.Claims["sub"] = "repo:octo/app:ref:refs/heads/main" }, nil, true},
		{"H-04 repository of the same name", "github-actions", "github-actions", nil, edits{"repository_id": "456790"}, false},
		{"H-04 owner of the same name", "github-actions", "github-actions", nil, edits{"repository_owner_id": "123457"}, false},
		{"H-04 id as a number", "github-actions", "github-actions", nil, edits{"repository_id": 456789}, false},
		{"H-07 pull request", "github-actions", "github-actions", nil, edits{"event_name": "pull_request", "sub": "repo:octo/app:pull_request", "ref": "refs/pull/1/merge"}, false},
		{"H-07 pull request, glob for sub", "github-actions", "github-actions", func(r *policy.Rule) {
			delete(r.Subject.Claims, "ref")
			r.Subject.ClaimGlobs = map[string]string{"sub": "repo:octo/app:*"}
			r.AcceptRisks = []string{"github-any-ref"}
		}, edits{"event_name": "pull_request", "sub": "repo:octo/app:pull_request"}, false},
		{"H-08 environment that looks like a ref", "github-actions", "github-actions", func(r *policy.Rule) {
			r.Subject.Claims["sub"] = "repo:octo/app:ref:refs/heads/main"
		}, edits{"sub": "repo:octo/app:environment:prod%3Aref%3Arefs/heads/main"}, false},
		{"H-08 environment, exact", "github-actions", "github-actions-environment", func(r *policy.Rule) {
			r.Subject.Claims["sub"] = "repo:octo/app:environment:prod"
		}, edits{"sub": "repo:octo/app:environment:prod%3Aref%3Arefs/heads/main"}, false},
		{"environment", "github-actions", "github-actions-environment", func(r *policy.Rule) { r.Subject.Claims["environment"] = "prod" }, nil, true},
		{"H-09 customised sub", "github-actions", "github-actions", nil, edits{"sub": "repository_owner:octo"}, true}, // by the claims, which it cannot change
		{"H-09 customised sub of another", "github-actions", "github-actions", nil, edits{"sub": "repo:octo/app:ref:refs/heads/main", "repository_id": "1"}, false},
		{"H-10 pull_request_target", "github-actions", "github-actions", nil, edits{"event_name": "pull_request_target"}, false},
		{"H-10 workflow_run", "github-actions", "github-actions", nil, edits{"event_name": "workflow_run"}, false},
		{"H-12 hosted runner of a private repository", "github-actions", "github-actions", func(r *policy.Rule) {
			r.When = `subject.claims.runner_environment == "github-hosted" && subject.claims.repository_visibility != "public"`
		}, nil, true},
		{"H-12 runner of one's own", "github-actions", "github-actions", func(r *policy.Rule) { r.When = `subject.claims.runner_environment == "github-hosted"` }, edits{"runner_environment": "self-hosted"}, false},
		{"H-12 public repository", "github-actions", "github-actions", func(r *policy.Rule) { r.When = `subject.claims.repository_visibility != "public"` }, edits{"repository_visibility": "public"}, false},
		{"H-13 issuer of an enterprise", "github-actions", "github-actions-enterprise", nil, nil, false},
		{"H-14 no alternation", "github-actions", "github-actions", func(r *policy.Rule) { r.Subject.Claims["repository"] = "octo/a|octo/app" }, nil, false},
		{"H-15 a dot is a dot", "github-actions", "github-actions", func(r *policy.Rule) { r.Subject.ClaimGlobs = map[string]string{"repository": "octo/a.p*"} }, nil, false},
		{"H-16 case", "github-actions", "github-actions", func(r *policy.Rule) { r.Subject.Claims["repository"] = "Octo/app" }, nil, false},

		{"GL-02 path made anew", "gitlab", "gitlab", nil, edits{"project_id": "21"}, false},
		{"GL-03 merge request of a fork", "gitlab", "gitlab", nil, edits{"project_id": "99", "project_path": "fork/my-project", "namespace_id": "100", "job_project_id": "20", "pipeline_source": "merge_request_event"}, false},
		{"GL-04 string", "gitlab", "gitlab", func(r *policy.Rule) { r.When = `subject.claims.ref_protected == "true"` }, nil, true},
		{"GL-04 boolean in the token", "gitlab", "gitlab", nil, edits{"ref_protected": true}, false},
		{"GL-06 another instance", "gitlab", "gitlab", nil, edits{"iss": "https://gitlab.com"}, false},
		{"GL-07 subgroup", "gitlab", "gitlab", func(r *policy.Rule) { r.Subject.ClaimGlobs = map[string]string{"project_path": "my-group/*"} }, edits{"project_path": "my-group/sub/my-project"}, false},
		{"GL-07 group that begins alike", "gitlab", "gitlab", func(r *policy.Rule) { r.Subject.ClaimGlobs = map[string]string{"project_path": "my-group/*"} }, edits{"project_path": "my-group-evil/my-project"}, false},
		{"GL-08 merge request", "gitlab", "gitlab", nil, edits{"pipeline_source": "merge_request_event"}, false},
		{"GL-08 schedule", "gitlab", "gitlab", nil, edits{"pipeline_source": "schedule"}, false},
		{"GL-08 trigger", "gitlab", "gitlab", nil, edits{"pipeline_source": "trigger"}, false},

		{"K-01 legacy token", "kubernetes", "kubernetes", nil, edits{"iss": "kubernetes/serviceaccount", "exp": absent, "aud": absent}, false},
		{"K-01 without exp", "kubernetes", "kubernetes", nil, edits{"exp": absent}, false},
		{"K-02 for the API server", "kubernetes", "kubernetes", nil, edits{"aud": []string{"https://kubernetes.default.svc"}}, false},
		{"K-03 another namespace", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": k8s("dev", "deployer")}, false},
		{"K-03 another account", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": k8s("prod", "other")}, false},
		{"K-03 colon in a namespace", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": k8s("prod:deployer", ""), "sub": "system:serviceaccount:prod:deployer:"}, false},
		{"K-03 namespace a number", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": k8s(1, "deployer")}, false},
		{"K-03 no kubernetes.io", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": absent}, false},
		{"K-03 kubernetes.io a string", "kubernetes", "kubernetes", nil, edits{"kubernetes.io": "prod"}, false},
		{"K-07 a year", "kubernetes", "kubernetes", nil, edits{"exp": 1_800_000_000 + 31_536_000}, false},
		{"K-10 namespace that begins alike", "kubernetes", "kubernetes", func(r *policy.Rule) {
			r.Subject.Claims, r.Subject.ClaimGlobs = nil, map[string]string{"sub": "system:serviceaccount:prod:*"}
		}, edits{"sub": "system:serviceaccount:prod-evil:deployer", "kubernetes.io": k8s("prod-evil", "deployer")}, false},
		{"namespace by CEL", "kubernetes", "kubernetes", func(r *policy.Rule) { r.When = `subject.claims["kubernetes.io"].namespace == "prod"` }, nil, true},

		{"S-02 without exp", "spiffe", "spiffe", nil, edits{"exp": absent}, false},
		{"S-03 without aud", "spiffe", "spiffe", nil, edits{"aud": absent}, false},
		{"S-03 aud of others", "spiffe", "spiffe", nil, edits{"aud": []string{"reports"}}, false},
		{"S-03 two aud", "spiffe", "spiffe", nil, edits{"aud": []string{selfIssuer, "reports"}}, false},
		{"S-04 another trust domain", "spiffe", "spiffe", nil, edits{"sub": "spiffe://evil.org/ns/prod/sa/deployer"}, false},
		{"S-04 another trust domain, our iss", "spiffe", "spiffe", nil, edits{"sub": "spiffe://evil.org/ns/prod/sa/deployer", "iss": "spiffe://example.org"}, false},
		{"S-04 the trust domain itself", "spiffe", "spiffe", nil, edits{"sub": "spiffe://example.org", "iss": "spiffe://example.org"}, false},
		{"S-01 not normal", "spiffe", "spiffe", nil, edits{"sub": "spiffe://example.org/ns/prod/sa//deployer", "iss": "spiffe://example.org"}, false},
		{"iss is the trust domain", "spiffe", "spiffe", nil, edits{"iss": "spiffe://example.org"}, true},
		{"iss of somebody else", "spiffe", "spiffe", nil, edits{"iss": "https://oidc.example.org"}, false},
		{"C-15 iss null", "spiffe", "spiffe", nil, edits{"iss": nil}, false},
		{"C-15 iss empty", "spiffe", "spiffe", nil, edits{"iss": ""}, false},
		{"S-07 path that begins alike", "spiffe", "spiffe", func(r *policy.Rule) {
			r.Subject.Claims, r.Subject.ClaimGlobs = nil, map[string]string{"sub": "spiffe://example.org/ns/prod/sa/*"}
		}, edits{"sub": "spiffe://example.org/ns/prod-evil/sa/deployer"}, false},
		{"C-16 long", "spiffe", "spiffe", nil, edits{"sub": "spiffe://example.org/" + strings.Repeat("a", 256)}, false},
		{"C-16 space in sub of others", "gitlab", "gitlab", nil, edits{"sub": "project_path:a b"}, false},
		{"C-16 tab in sub of Terraform", "terraform-cloud", "terraform-cloud", nil, edits{"sub": "organization:a\tb"}, false},
	} {
		t.Run(tc.preset+" "+tc.id, func(t *testing.T) {
			f := newFixture(t)
			p := f.trustPlatform(t, tc.preset)
			r := p.rule(nil)
			if tc.edit != nil {
				tc.edit(&r)
			}
			if problems := f.problems(t, r); problems != nil {
				t.Fatalf("%+v", problems)
			}
			request := f.platformRequest(t, tc.recorded, tc.token)
			if tc.granted {
				f.token(t, request)
				return
			}
			f.assertRefused(t, request, sts.InvalidRequest)
		})
	}
}

// TestTwoIssuers holds H-13 and K-04: the tokens of two issuers of one platform are
// not taken for each other's, though both have a rule for the same claims.
func TestTwoIssuers(t *testing.T) {
	f := newFixture(t)
	p := f.trustPlatform(t, "github-actions")
	if problems := f.problems(t, p.rule(nil)); problems != nil {
		t.Fatal(problems)
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{
		Name: "enterprise", Preset: "github-actions", Issuer: "https://token.actions.githubusercontent.com/ACME", Algorithms: []string{"ES256"}, SelfPresented: true,
	}}}})
	f.token(t, f.platformRequest(t, "github-actions", nil))
	e := f.assertRefused(t, f.platformRequest(t, "github-actions-enterprise", nil), sts.InvalidRequest) // signed by the other's key
	if rec := f.audit.last(); rec.Subject.Issuer != "enterprise" || !rec.Subject.Unverified {
		t.Errorf("%v: %+v", e, rec.Subject)
	}
}

// TestSPIFFEHeaders holds S-06, and the typ that a JWT-SVID may have.
func TestSPIFFEHeaders(t *testing.T) {
	f := newFixture(t)
	p := f.trustPlatform(t, "spiffe", func(i *sts.Issuer) { i.Algorithms = nil })
	if problems := f.problems(t, p.rule(nil)); problems != nil {
		t.Fatal(problems)
	}
	for _, tc := range []struct {
		id      string
		header  map[string]any
		granted bool
	}{
		{"the good token", nil, true},
		{"no typ", map[string]any{"typ": absent}, true},
		{"typ JOSE", map[string]any{"typ": "JOSE"}, true},
		{"typ at+jwt", map[string]any{"typ": "at+jwt"}, false},
		{"S-06 none", map[string]any{"alg": "none"}, false},
		{"S-06 HS256", map[string]any{"alg": "HS256"}, false},
		{"S-06 EdDSA", map[string]any{"alg": "EdDSA"}, false},
	} {
		t.Run(tc.id, func(t *testing.T) {
			claims := edit(recorded(t, "spiffe"), map[string]any{"aud": selfIssuer, "iat": f.now.Unix(), "exp": f.now.Unix() + 600})
			r := f.platformRequest(t, "spiffe", nil)
			r.Subject.Token = f.issuers.sign(t, "platform", edit(map[string]any{"alg": "ES256", "kid": "platform-1", "typ": "JWT"}, tc.header), claims)
			asked := f.issuers.asked
			if tc.granted {
				f.token(t, r)
				return
			}
			f.assertRefused(t, r, sts.InvalidRequest)
			if f.issuers.asked != asked {
				t.Error("the key was asked for")
			}
		})
	}
	f = newFixture(t)
	f.trustPlatform(t, "gitlab")
	r := f.platformRequest(t, "gitlab", nil)
	r.Subject.Token = f.issuers.sign(t, "platform", map[string]any{"alg": "ES256", "kid": "platform-1", "typ": "JOSE"}, edit(recorded(t, "gitlab"), map[string]any{"aud": selfIssuer, "iat": f.now.Unix(), "nbf": f.now.Unix(), "exp": f.now.Unix() + 600}))
	f.assertRefused(t, r, sts.InvalidRequest)
}

// TestSPIFFEAssertion authenticates a client by a JWT-SVID that has no iss, as those
// of SPIRE have none, and by nothing that only looks like one.
func TestSPIFFEAssertion(t *testing.T) {
	const id = "spiffe://example.org/ns/prod/sa/deployer"
	f := newFixture(t)
	f.trustPlatform(t, "spiffe")
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "svid", Federated: &sts.FederatedIdentity{Issuer: "platform", Claims: map[string]any{"sub": id}}}},
		rule("svid", policy.Rule{Requester: policy.Requester{Clients: []string{"svid"}}, Allow: allow("web", "read")}),
	}})
	request := func(edits map[string]any) sts.TokenRequest {
		return sts.TokenRequest{Grant: sts.ClientCredentials, Audiences: []string{"web"}, Credential: sts.Credential{
			Method: sts.SPIFFEJWT, AssertionType: sts.JWTSPIFFE, Assertion: f.platformRequest(t, "spiffe", edits).Subject.Token,
		}}
	}
	if _, claims := f.token(t, request(nil)); claims["client_id"] != "svid" {
		t.Errorf("%v", claims)
	}
	for name, edits := range map[string]map[string]any{
		"S-02 without exp":             {"exp": absent},
		"S-03 for others":              {"aud": "https://other.example.com"},
		"S-03 for others too":          {"aud": []string{selfIssuer, "https://other.example.com"}},
		"S-04 another trust domain":    {"sub": "spiffe://evil.org/ns/prod/sa/deployer"},
		"S-04 another, with our iss":   {"sub": "spiffe://evil.org/ns/prod/sa/deployer", "iss": "spiffe://example.org"},
		"S-01 not in its one spelling": {"sub": id + "/"},
		"another workload":             {"sub": id + "x"},
		"C-15 iss null":                {"iss": nil},
	} {
		t.Run(name, func(t *testing.T) { f.assertRefused(t, request(edits), sts.InvalidClient) })
	}
	t.Run("as a client's own assertion", func(t *testing.T) { // which must have an iss [RFC 7523 §3]
		r := request(nil)
		r.Credential.Method, r.Credential.AssertionType = sts.PrivateKeyJWT, sts.JWTBearer
		f.assertRefused(t, r, sts.InvalidClient)
	})
}

// TestOtherAudiences holds S-03: two audiences are accepted by name.
func TestOtherAudiences(t *testing.T) {
	f := newFixture(t)
	p := f.trustPlatform(t, "spiffe", func(i *sts.Issuer) { i.AllowOtherAudiences = true })
	if problems := f.problems(t, p.rule(nil)); problems != nil {
		t.Fatal(problems)
	}
	f.token(t, f.platformRequest(t, "spiffe", map[string]any{"aud": []string{selfIssuer, "reports"}}))
	f.assertRefused(t, f.platformRequest(t, "spiffe", map[string]any{"aud": []string{"logs", "reports"}}), sts.InvalidRequest)
}

// TestReview holds that an Issuer with a TokenReview is asked about a token instead
// of its key, after all that can be told without it, and that everything else about
// the token is checked as ever.
func TestReview(t *testing.T) {
	const account = "system:serviceaccount:prod:deployer"
	other := fmt.Errorf("%w: pod is gone", jose.ErrSignature)
	for _, tc := range []struct {
		id      string
		subject string
		err     error
		token   map[string]any
		code    sts.Code // empty: granted
		reviews int
	}{
		{"good", account, nil, nil, "", 1},
		{"K-06 K-08 not confirmed", "", other, nil, sts.InvalidRequest, 1},
		{"API server down", "", errors.New("connection refused"), nil, sts.Unavailable, 1},
		{"K-03 of another account", "system:serviceaccount:prod:other", nil, nil, sts.InvalidRequest, 1},
		{"I-22 not for us", account, nil, map[string]any{"aud": "https://kubernetes.default.svc"}, sts.InvalidRequest, 0},
		{"I-22 expired", account, nil, map[string]any{"exp": 1_800_000_000 - 60, "iat": 1_800_000_000 - 600, "nbf": absent}, sts.InvalidRequest, 0},
		{"I-22 K-03 not agreeing", account, nil, map[string]any{"sub": account + "x"}, sts.InvalidRequest, 0},
		{"I-01 issuer unknown", account, nil, map[string]any{"iss": "https://evil.example.com"}, sts.InvalidRequest, 0},
	} {
		t.Run(tc.id, func(t *testing.T) {
			f := newFixture(t)
			p := f.trustPlatform(t, "kubernetes", func(i *sts.Issuer) {
				i.TokenReview = &sts.TokenReview{APIServer: "https://kubernetes.default.svc", TokenFile: "/token"}
			})
			if problems := f.problems(t, p.rule(nil)); problems != nil {
				t.Fatal(problems)
			}
			f.issuers.subject, f.issuers.reviewErr = tc.subject, tc.err
			r := f.platformRequest(t, "kubernetes", tc.token)
			if tc.code == "" {
				f.token(t, r)
			} else if e := f.assertRefused(t, r, tc.code); tc.code == sts.Unavailable && e.RetryAfter == 0 {
				t.Error("nothing says when to come back")
			}
			if f.issuers.reviews != tc.reviews || f.issuers.asked != 0 {
				t.Errorf("%d reviews, %d keys asked for", f.issuers.reviews, f.issuers.asked)
			}
			rec := f.audit.last()
			if tc.code != "" && !rec.Subject.Unverified {
				t.Errorf("a token that was not proven is recorded as if it were: %+v", rec.Subject)
			}
			if tc.id == "I-22 not for us" && strings.Contains(fmt.Sprint(rec.Reasons), "kubernetes.default") {
				t.Errorf("what anybody can have written is in the record: %+v", rec.Reasons)
			}
		})
	}
	t.Run("signature checked before", func(t *testing.T) {
		f := newFixture(t)
		p := f.trustPlatform(t, "kubernetes", func(i *sts.Issuer) {
			i.TokenReview = &sts.TokenReview{APIServer: "https://kubernetes.default.svc", TokenFile: "/token", CheckSignature: true}
		})
		f.problems(t, p.rule(nil))
		f.issuers.subject = account
		good := f.platformRequest(t, "kubernetes", nil)
		forged := good
		// A flood of forged tokens costs the API server nothing.
		for i := range 20 {
			at := strings.LastIndexByte(good.Subject.Token, '.') + 1 + i
			changed := byte('A')
			if good.Subject.Token[at] == changed {
				changed = 'B'
			}
			forged.Subject.Token = good.Subject.Token[:at] + string(changed) + good.Subject.Token[at+1:]
			f.assertRefused(t, forged, sts.InvalidRequest)
		}
		if f.issuers.reviews != 0 {
			t.Errorf("%d reviews of forged tokens", f.issuers.reviews)
		}
		f.token(t, good)
		if f.issuers.reviews != 1 {
			t.Errorf("%d reviews", f.issuers.reviews)
		}
		// The signature alone is not enough.
		f.issuers.subject, f.issuers.reviewErr = "", other
		f.assertRefused(t, good, sts.InvalidRequest)
	})
	t.Run("K-06 pod deleted after the first time", func(t *testing.T) {
		f := newFixture(t)
		p := f.trustPlatform(t, "kubernetes", func(i *sts.Issuer) {
			i.TokenReview = &sts.TokenReview{APIServer: "https://kubernetes.default.svc", TokenFile: "/token"}
		})
		f.problems(t, p.rule(nil))
		f.issuers.subject = account
		r := f.platformRequest(t, "kubernetes", nil)
		f.token(t, r)
		f.token(t, r)
		f.issuers.subject, f.issuers.reviewErr = "", other
		f.assertRefused(t, r, sts.InvalidRequest)
		f.issuers.subject, f.issuers.reviewErr = account, nil
		f.token(t, r)
		f.now = f.now.Add(time.Hour)
		f.assertRefused(t, r, sts.InvalidRequest)
	})
}

// TestDistrust holds I-24: when an Issuer is removed under load, no node issues a
// token for its tokens a second later, though their keys and signatures are
// remembered.
func TestDistrust(t *testing.T) {
	f := newFixture(t)
	other, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: newMemKeys(t), IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked, Now: func() time.Time { return f.now }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { other.Run(ctx) })
	defer running.Wait()
	defer cancel()
	r := f.selfPresented(t)
	var deadline atomic.Int64 // of tokens, in ns; 0: there is none yet
	stop := make(chan struct{})
	var granted, late atomic.Int64
	var load sync.WaitGroup
	for _, s := range []*sts.Service{f.service, other} {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now().UnixNano()
				if _, err := s.Token(t.Context(), r); err == nil {
					granted.Add(1)
					if end := deadline.Load(); end != 0 && began > end {
						late.Add(1)
					}
				}
			}
		})
	}
	for granted.Load() < 10 {
		time.Sleep(time.Millisecond)
	}
	f.apply(t, sts.Change{Delete: []sts.Ref{{Kind: sts.KindRule, Name: "jobs"}, {Kind: sts.KindIssuer, Name: "ci"}}})
	deadline.Store(time.Now().Add(time.Second).UnixNano())
	time.Sleep(1200 * time.Millisecond)
	close(stop)
	load.Wait()
	if late.Load() > 0 {
		t.Errorf("%d tokens were issued a second after the issuer was removed", late.Load())
	}
}
