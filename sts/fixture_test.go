package sts_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/ststest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

const selfIssuer = "https://sts.example.com"

// canary is a secret that must not come out anywhere.
const canary = "stss_canary-0123456789-0123456789-0123456789-01"

// fixture is a Service on parts that count what is asked of them.
type fixture struct {
	service    *sts.Service
	store      *ststest.Store
	keys       *memKeys
	issuers    *memIssuers
	clients    *memClients
	replay     *memReplay
	audit      *memAudit
	revoked    *memRevocations
	registered *ststest.Registrations // nil: clients cannot be registered
	now        time.Time

	strangers sts.StrangerLimits
	limits    sts.Limits // as of the next restart
	uses      int        // single uses of one client, as of the next restart
	secrets   map[string]string
}

// newFixture has a client web, which is the audience web, a client api, two
// issuers idp and ci, of which ci lets workloads present their own tokens, and
// audiences web, api and other.
func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{
		store: ststest.NewStore(), keys: newMemKeys(t), issuers: newMemIssuers(t), clients: newMemClients(t), audit: &memAudit{},
		replay: &memReplay{used: map[string]time.Time{}},
		now:    time.Unix(1_800_000_000, 0), secrets: map[string]string{},
	}
	f.revoked = &memRevocations{f: f, m: map[sts.RevocationName]sts.Revocation{}}
	f.restart(t, nil)
	var resources []sts.Resource
	for _, name := range []string{"web", "api"} {
		hash, err := sts.HashSecret(canary + name)
		if err != nil {
			t.Fatal(err)
		}
		f.secrets[name] = canary + name
		resources = append(resources, sts.Resource{Client: &sts.Client{Name: name, Audiences: []string{name}, Secrets: []sts.ClientSecret{{Hash: hash}}}})
	}
	for _, name := range []string{"web", "api", "other"} {
		resources = append(resources, sts.Resource{Audience: &sts.Audience{Name: name, Scopes: []string{"read", "write", "admin"}}})
	}
	both := []string{"access_token", "jwt", "id_token"}
	resources = append(resources,
		sts.Resource{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", TokenTypes: both}},
		sts.Resource{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true}},
		rule("web-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web", "read", "write")}),
		rule("web-users", policy.Rule{
			Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}},
			Allow: allow("api", "read", "write"),
		}),
		rule("web-acted", policy.Rule{
			Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"},
			Actor: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "agent-1"}}, Allow: allow("api", "read"),
		}),
		rule("api-next", policy.Rule{
			Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: policy.Self}, Allow: allow("other", "read", "write", "admin"),
		}),
		rule("jobs", policy.Rule{Subject: &policy.Party{Issuer: "ci", Claims: map[string]any{"sub": "job-1"}}, Allow: allow("api", "read")}),
	)
	f.apply(t, sts.Change{Put: resources})
	return f
}

// restart makes a new Service of the same parts, as another node or another start
// has them. With a key, proofs must have nonces.
func (f *fixture) restart(t testing.TB, nonceKey []byte) {
	t.Helper()
	var err error
	var registrations sts.Registrations
	if f.registered != nil {
		registrations = f.registered
	}
	f.service, err = sts.New(t.Context(), sts.Config{
		Registrations: registrations, CertificateMethods: []sts.AuthMethod{sts.TLSClientAuth, sts.SelfSignedTLSClientAuth},
		Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Audit: f.audit, Replay: f.replay, NonceKey: nonceKey,
		Revocations: f.revoked, MaxStaleness: maxStaleness, Limits: f.limits, SingleUses: f.uses,
		Now: func() time.Time { return f.now }, Strangers: f.strangers,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func rule(name string, r policy.Rule) sts.Resource {
	r.Name = name
	return sts.Resource{Rule: &r}
}

func allow(audience string, scopes ...string) policy.Allow {
	return policy.Allow{Audiences: []string{audience}, Scopes: scopes}
}

func (f *fixture) apply(t testing.TB, c sts.Change) sts.Changed {
	t.Helper()
	done, err := f.service.Apply(t.Context(), c)
	if err != nil {
		e := &sts.Error{}
		errors.As(err, &e)
		t.Fatalf("%v %+v", err, e.Problems)
	}
	return done
}

// credentials is a good client credentials request of a client.
func (f *fixture) credentials(client string) sts.TokenRequest {
	return sts.TokenRequest{
		Grant: sts.ClientCredentials, Audiences: []string{client},
		Credential: sts.Credential{Method: sts.SecretBasic, ClientID: client, Secret: f.secrets[client]},
	}
}

// exchange is a good exchange by the client web of a token of the idp.
func (f *fixture) exchange(t testing.TB) sts.TokenRequest {
	t.Helper()
	r := f.credentials("web")
	r.Grant, r.Audiences = sts.TokenExchange, []string{"api"}
	r.Subject = sts.Presented{Token: f.foreign(t, "idp", nil, nil), Type: sts.JWT}
	return r
}

// selfPresented is a good exchange by a job of ci.
func (f *fixture) selfPresented(t testing.TB) sts.TokenRequest {
	t.Helper()
	return sts.TokenRequest{
		Grant: sts.TokenExchange, Audiences: []string{"api"},
		Subject: sts.Presented{Token: f.foreign(t, "ci", nil, nil), Type: sts.JWT},
	}
}

// foreign is a token of an issuer, good but for the edits.
func (f *fixture) foreign(t testing.TB, issuer string, header, claims map[string]any) string {
	t.Helper()
	sub := map[string]string{"idp": "user-1", "ci": "job-1"}[issuer]
	life := map[string]int64{"idp": 600, "ci": 600, "signer": 240}[issuer]
	h := map[string]any{"alg": "ES256", "kid": issuer + "-1", "typ": "JWT"}
	c := map[string]any{
		"iss": "https://" + issuer + ".example.com", "sub": sub, "aud": selfIssuer,
		"iat": f.now.Unix(), "exp": f.now.Unix() + life, "jti": rand.Text(),
	}
	return f.issuers.sign(t, issuer, edit(h, header), edit(c, claims))
}

// absent as a value of an edit removes the member.
var absent = struct{}{}

func edit(m, edits map[string]any) map[string]any {
	for k, v := range edits {
		if v == absent {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}

// token decides a request that must be granted.
func (f *fixture) token(t testing.TB, r sts.TokenRequest) (sts.Token, map[string]any) {
	t.Helper()
	token, err := f.service.Token(t.Context(), r)
	if err != nil {
		t.Fatalf("%v; record %+v", err, f.audit.last())
	}
	jws, err := jose.Parse(token.Value)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := f.keys.KeySet().Key(jws.Header.KeyID)
	if !ok {
		t.Fatal("the token names a key that is not published")
	}
	if err := jws.Verify(key); err != nil {
		t.Fatal(err)
	}
	claims, err := jws.Claims()
	if err != nil {
		t.Fatal(err)
	}
	return token, claims
}

// assertRefused decides a request that must not be granted, and holds what every
// refusal has in common.
func (f *fixture) assertRefused(t testing.TB, r sts.TokenRequest, want sts.Code) *sts.Error {
	t.Helper()
	signed, records, used := f.keys.signed, len(f.audit.records), len(f.replay.used)
	token, err := f.service.Token(t.Context(), r)
	e, ok := errors.AsType[*sts.Error](err)
	if !ok {
		t.Fatalf("token %v, error %v; want a refusal", token, err)
	}
	if e.Code != want {
		t.Errorf("refused with %v, want %s", e, want)
	}
	if token.Value != "" || f.keys.signed != signed {
		t.Error("a token was signed for a request that is refused")
	}
	// An assertion is used up by the authentication, whatever is decided then.
	if len(f.replay.used) != used && r.Credential.Assertion == "" {
		t.Error("something was used up for a request that is refused")
	}
	if e.Decision == "" || e.Message == "" {
		t.Errorf("the refusal %+v has no decision id or no sentence", e)
	}
	if len(f.audit.records) != records+1 {
		t.Fatalf("%d records for one decision", len(f.audit.records)-records)
	}
	rec := f.audit.last()
	if rec.Outcome != "deny" || rec.Error != e.Code || rec.Decision != e.Decision || rec.Issued != nil {
		t.Errorf("record %+v for the refusal %v", rec, e)
	}
	line, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{e.Message, string(line)} {
		for _, secret := range []string{canary, r.Subject.Token, r.Actor.Token, r.Proof, r.Credential.Assertion} {
			if len(secret) > 20 && strings.Contains(text, secret) {
				t.Errorf("a secret came out: %s", text)
			}
		}
	}
	return e
}

// memIssuers has a key for each issuer.
type memIssuers struct {
	mu      sync.Mutex
	signers map[string]*ecdsa.PrivateKey
	removed map[string]bool // kids that are not published any more
	asked   int
	err     error

	subject   string // what Review says, with reviewErr
	reviews   int
	reviewErr error
	status    []sts.IssuerStatus
	checked   []sts.Issuer
}

func newMemIssuers(t testing.TB) *memIssuers {
	t.Helper()
	m := &memIssuers{signers: map[string]*ecdsa.PrivateKey{}, removed: map[string]bool{}}
	for _, name := range []string{"idp", "ci", "signer"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		m.signers[name] = key
	}
	return m
}

func (m *memIssuers) Check(i *sts.Issuer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checked = append(m.checked, *i)
	return nil
}

func (m *memIssuers) Trust([]*sts.Issuer)        {}
func (m *memIssuers) Status() []sts.IssuerStatus { return m.status }

func (m *memIssuers) Review(context.Context, string, string, string) (string, error) {
	m.reviews++
	return m.subject, m.reviewErr
}

func (m *memIssuers) Key(_ context.Context, issuer, kid string, _ jose.Algorithm) (jose.Key, error) {
	m.mu.Lock()
	m.asked++
	m.mu.Unlock()
	if m.err != nil {
		return jose.Key{}, m.err
	}
	if kid != issuer+"-1" || m.removed[kid] {
		return jose.Key{}, jose.ErrUnknownKey
	}
	return jose.Key{ID: kid, Algorithm: jose.ES256, Public: m.signers[issuer].Public()}, nil
}

// sign makes a token of raw JSON, so that it can be as wrong as a test wants it.
func (m *memIssuers) sign(t testing.TB, issuer string, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return m.signRaw(t, issuer, h, c)
}

func (m *memIssuers) signRaw(t testing.TB, issuer string, header, claims []byte) string {
	t.Helper()
	input := slices.Concat(b64(header), []byte("."), b64(claims))
	sig, err := jose.Sign(jose.ES256, m.signers[issuer], input)
	if err != nil {
		t.Fatal(err)
	}
	return jose.Compact(input, sig)
}

// memAudit keeps records.
type memAudit struct {
	mu      sync.Mutex
	records []sts.Record
	err     error
	failed  error

	hang bool // each record takes until its context ends

	deadline time.Time // of the last record's context
}

func (a *memAudit) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *memAudit) Record(ctx context.Context, r *sts.Record) error {
	if a.hang {
		<-ctx.Done()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.deadline, _ = ctx.Deadline()
	if a.err != nil {
		return a.err
	}
	a.records = append(a.records, *r)
	return nil
}

func (a *memAudit) Err() error { return a.failed }

func (a *memAudit) last() sts.Record {
	if len(a.records) == 0 {
		return sts.Record{}
	}
	return a.records[len(a.records)-1]
}

func b64(b []byte) []byte {
	return base64.RawURLEncoding.AppendEncode(nil, b)
}

// memReplay remembers until when what was used counts.
type memReplay struct {
	mu   sync.Mutex
	used map[string]time.Time
	now  func() time.Time // nil: nothing is ever forgotten
	err  error

	uses   int
	last   struct{ since, until time.Time }
	failed error
}

func (m *memReplay) Err() error { return m.failed }

func (m *memReplay) Use(_ context.Context, space sts.ReplaySpace, key string, since, until time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uses++
	m.last.since, m.last.until = since, until
	if m.err != nil {
		return false, m.err
	}
	key = string(space) + " " + key
	if end, used := m.used[key]; used && (m.now == nil || m.now().Before(end)) {
		return false, nil
	}
	m.used[key] = until
	return true, nil
}

// memRevocations keeps revocations in memory, and heard from the store just now
// but for lag.
type memRevocations struct {
	mu  sync.Mutex
	f   *fixture
	m   map[sts.RevocationName]sts.Revocation
	lag time.Duration
	err error // what Add and List return
}

func (m *memRevocations) Revoked(name sts.RevocationName, issued time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.m[name]
	return ok && (r.Before.IsZero() || !issued.Truncate(time.Second).After(r.Before))
}

func (m *memRevocations) Add(_ context.Context, r sts.Revocation) (sts.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return sts.Revocation{}, m.err
	}
	if old, ok := m.m[r.Name()]; ok && !r.Before.After(old.Before) {
		return old, nil
	}
	m.m[r.Name()] = r
	return r, nil
}

func (m *memRevocations) List(_ context.Context, kind sts.RevocationKind, _ *sts.Revocation, limit int) ([]sts.Revocation, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sts.Revocation
	for _, r := range m.m {
		if (kind == "" || r.Kind == kind) && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, false, m.err
}

func (m *memRevocations) Count() int           { return len(m.m) }
func (m *memRevocations) Confirmed() time.Time { return time.Now().Add(-m.lag) }
