package sts_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestRotateSecret replaces a secret without an interruption.
func TestRotateSecret(t *testing.T) {
	f := newFixture(t)
	with := func(secret string) sts.TokenRequest {
		r := f.credentials("web")
		r.Credential.Secret = secret
		return r
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{
		Name: "web", Audiences: []string{"web"}, Labels: map[string]string{"a": "b"}, Secrets: webSecrets(t, f),
	}}}})
	first, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Hour, 0)
	if err != nil || first.PreviousNotAfter.Sub(f.now) != time.Hour {
		t.Fatalf("%+v, %v", first, err)
	}
	f.token(t, with(f.secrets["web"]))
	f.token(t, with(first.Secret))
	r, revision, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
	if err != nil || revision != first.Revision || r.Client.Labels["a"] != "b" || len(r.Client.Secrets) != 2 || r.Client.Secrets[1].ID() != first.ID {
		t.Fatalf("%+v at %d, %v", r.Client, revision, err)
	}
	// Again, when the new one is in use: the oldest goes, and the longest-lived is kept.
	second, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Minute, first.Revision)
	if err != nil {
		t.Fatal(err)
	}
	f.assertRefused(t, with(f.secrets["web"]), sts.InvalidClient)
	f.token(t, with(first.Secret))
	f.token(t, with(second.Secret))
	f.now = f.now.Add(time.Minute)
	f.assertRefused(t, with(first.Secret), sts.InvalidClient)
	f.token(t, with(second.Secret))
	// Without overlap.
	third, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", 0, 0)
	if err != nil || !third.PreviousNotAfter.IsZero() {
		t.Fatalf("%+v, %v", third, err)
	}
	f.assertRefused(t, with(second.Secret), sts.InvalidClient)
	f.token(t, with(third.Secret))

	for name, tc := range map[string]struct {
		client   string
		overlap  time.Duration
		expected int64
		want     sts.Code
	}{
		"no such client":   {"nobody", 0, 0, sts.NotFound},
		"another revision": {"web", 0, first.Revision, sts.Conflict},
		"negative":         {"web", -1, 0, sts.InvalidRequest},
		"too long":         {"web", 721 * time.Hour, 0, sts.InvalidRequest},
	} {
		_, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, tc.client, tc.overlap, tc.expected)
		if e, ok := errors.AsType[*sts.Error](err); !ok || e.Code != tc.want {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	f.token(t, with(third.Secret))
}

// webSecrets are those that the client web has.
func webSecrets(t *testing.T, f *fixture) []sts.ClientSecret {
	r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return r.Client.Secrets
}

// TestRotateTogether lets two operators rotate at once: both get a secret, and
// the last two of all work.
func TestRotateTogether(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	secrets := map[int64]string{}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			done, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Hour, 0)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			secrets[done.Revision] = done.Secret
		})
	}
	all.Wait()
	works := 0
	for _, secret := range secrets {
		r := f.credentials("web")
		r.Credential.Secret = secret
		if _, err := f.service.Token(t.Context(), r); err == nil {
			works++
		}
	}
	if len(secrets) != 4 || works != 2 {
		t.Errorf("%d revisions, %d secrets work", len(secrets), works)
	}
}

// TestRotateAgain rotates once more because the new secret got lost: the workload's
// own works on, with the end that it had.
func TestRotateAgain(t *testing.T) {
	f := newFixture(t)
	f.token(t, f.credentials("web"))
	lost, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(time.Minute)
	second, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Hour, 0)
	if err != nil || !second.PreviousNotAfter.Equal(lost.PreviousNotAfter) {
		t.Fatalf("%+v after %+v, %v", second, lost, err)
	}
	f.token(t, f.credentials("web"))
	r := f.credentials("web")
	r.Credential.Secret = lost.Secret
	f.assertRefused(t, r, sts.InvalidClient)
	r.Credential.Secret = second.Secret
	f.token(t, r)
}

// TestUsageOfOtherNodes holds that a node knows within a second that another one has
// seen a credential for the first time.
func TestUsageOfOtherNodes(t *testing.T) {
	f := newAssertionFixture(t)
	uses := &memUses{uses: map[string]sts.CredentialUse{}}
	node := func() *sts.Service {
		s, err := sts.New(t.Context(), sts.Config{
			Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked,
			Usage: uses, Now: func() time.Time { return f.now },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	other := node()
	f.service = node()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.service.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	f.token(t, f.credentials("web"))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := other.ClientStatus(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		if s.Credentials[0].LastUsed.Equal(f.now) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
	}
}

func TestRotateOtherMethods(t *testing.T) {
	f := newAssertionFixture(t)
	for _, name := range []string{"signer", "publisher", "pod"} {
		_, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, name, 0, 0)
		if e, ok := errors.AsType[*sts.Error](err); !ok || e.Code != sts.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "bare"}}}})
	done, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "bare", 0, 0)
	if err != nil || done.Secret == "" {
		t.Errorf("%v", err)
	}
}

// memUses is a UsageStore in memory.
type memUses struct {
	mu   sync.Mutex
	uses map[string]sts.CredentialUse
}

func (m *memUses) LoadUses(context.Context) (out []sts.CredentialUse, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.uses {
		out = append(out, u)
	}
	return out, nil
}

func (m *memUses) LastUse(_ context.Context, client, credential string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uses[client+" "+credential].Last, nil
}

func (m *memUses) SaveUses(_ context.Context, put, gone []sts.CredentialUse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range put {
		m.uses[u.Client+" "+u.Credential] = u
	}
	for _, u := range gone {
		delete(m.uses, u.Client+" "+u.Credential)
	}
	return nil
}

// TestUsage tells when each credential was used last, also after a restart.
func TestUsage(t *testing.T) {
	f := newAssertionFixture(t)
	uses := &memUses{uses: map[string]sts.CredentialUse{}}
	start := func() (stop func()) {
		var err error
		f.service, err = sts.New(t.Context(), sts.Config{
			Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked,
			Usage: uses, Now: func() time.Time { return f.now },
		})
		if err != nil {
			t.Fatal(err)
		}
		service := f.service
		return func() {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := service.Run(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop := start()
	status := func(name string) sts.ClientStatus {
		s, err := f.service.ClientStatus(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := status("web"); s.Method != "client_secret" || len(s.Credentials) != 1 || !s.Credentials[0].LastUsed.IsZero() {
		t.Errorf("%+v", s)
	}
	used := f.now
	f.token(t, f.credentials("web"))
	f.token(t, by(f.assertion(t, "signer", nil, nil)))
	f.token(t, by(f.federatedToken(t, "pod", nil, nil)))
	rotated, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	f.now = f.now.Add(time.Minute)
	stop = start()
	for name, method := range map[string]string{"signer": "private_key_jwt", "pod": "federated_jwt"} {
		if s := status(name); s.Method != method || len(s.Credentials) != 1 || !s.Credentials[0].LastUsed.Equal(used) {
			t.Errorf("%+v", s)
		}
	}
	s := status("web")
	if len(s.Credentials) != 2 || !s.Credentials[0].LastUsed.Equal(used) || !s.Credentials[1].LastUsed.IsZero() || s.Credentials[1].ID != rotated.ID {
		t.Errorf("%+v", s)
	}
	f.assertRefused(t, sts.TokenRequest{Grant: sts.ClientCredentials, Credential: sts.Credential{Method: sts.SecretPost, ClientID: "web", Secret: canary + "x"}}, sts.InvalidClient)
	r := f.credentials("web")
	r.Credential.Secret = rotated.Secret
	f.token(t, r)
	if s := status("web"); !s.Credentials[0].LastUsed.Equal(used) || !s.Credentials[1].LastUsed.Equal(f.now) {
		t.Errorf("%+v", s)
	}
	// What is gone is not kept.
	if _, err := f.service.RotateSecret(t.Context(), sts.Principal{Name: "ops"}, "web", 0, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	list, err := uses.LoadUses(t.Context())
	if err != nil || slices.ContainsFunc(list, func(u sts.CredentialUse) bool { return u.Client == "web" }) || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	if s := status("publisher"); s.Keys == nil || s.Keys.Name != "publisher" || s.Keys.Source != "jwks_uri" || len(s.Keys.Keys) != 1 {
		t.Errorf("keys that are published: %+v", s.Keys)
	}
	if s := status("signer"); s.Keys != nil {
		t.Errorf("keys in the resource: %+v", s.Keys)
	}
	if _, err := f.service.ClientStatus(t.Context(), "nobody"); err == nil {
		t.Error("a client that is not there")
	}
}
