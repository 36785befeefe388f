package sts

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// CredentialUse says when a credential of a client was used last.
type CredentialUse struct {
	Client, Credential string // see [Client.credentials]
	Last               time.Time
}

// UsageStore keeps when credentials were used. It is not what a decision depends
// on: some may get lost.
type UsageStore interface {
	LoadUses(ctx context.Context) ([]CredentialUse, error)
	// LastUse returns when a credential was used last, by any node; zero: never.
	LastUse(ctx context.Context, client, credential string) (time.Time, error)
	// SaveUses writes those of put that are later than what is there, and removes
	// those of gone.
	SaveUses(ctx context.Context, put, gone []CredentialUse) error
}

// saveUsageEvery is how often uses are written, and how much of them is lost when
// the process is killed. The first of a credential is written within a second: that
// it is in use is what a rotation looks at.
const saveUsageEvery = time.Minute

// usage knows when credentials were used. What it has of clients and credentials
// that are gone goes when it is written.
type usage struct {
	store UsageStore // may be nil
	last  sync.Map   // credentialName to *lastUse
	saved time.Time
	first atomic.Bool // a credential was used for the first time since then
}

type credentialName struct{ client, credential string }

type lastUse struct {
	at    atomic.Int64 // Unix seconds
	saved atomic.Int64 // at, as it is in the store
}

// note takes down that a credential has authenticated a client.
func (u *usage) note(c *client, credential string, now time.Time) {
	if credential == "" {
		credential = c.method()
	}
	name := credentialName{c.Name, credential}
	use, ok := u.last.Load(name)
	if !ok {
		use, _ = u.last.LoadOrStore(name, &lastUse{})
		defer u.first.Store(true)
	}
	use.(*lastUse).at.Store(now.Unix())
}

// of returns when a credential was used last, as this node knows; zero: never.
func (u *usage) of(client, credential string) time.Time {
	if use, ok := u.last.Load(credentialName{client, credential}); ok {
		return time.Unix(use.(*lastUse).at.Load(), 0)
	}
	return time.Time{}
}

// ofAll is what any node knows, a minute ago at most.
func (u *usage) ofAll(ctx context.Context, client, credential string) time.Time {
	at := u.of(client, credential)
	if u.store != nil {
		if other, err := u.store.LastUse(ctx, client, credential); err == nil && other.After(at) {
			at = other
		}
	}
	return at
}

func (u *usage) load(ctx context.Context) error {
	if u.store == nil {
		return nil
	}
	uses, err := u.store.LoadUses(ctx)
	if err != nil {
		return fmt.Errorf("loading when credentials were used: %w", err)
	}
	for _, use := range uses {
		l := &lastUse{}
		l.at.Store(use.Last.Unix())
		l.saved.Store(use.Last.Unix())
		u.last.Store(credentialName{use.Client, use.Credential}, l)
	}
	return nil
}

// saveUsage writes when credentials were used, if it is time to. It tells
// whether it was. Only Run calls it.
func (s *Service) saveUsage(ctx context.Context, force bool) bool {
	u, now := s.usage, s.now()
	due := force || now.Sub(u.saved) >= saveUsageEvery
	if due {
		u.saved = now
	}
	if u.first.Swap(false) || due {
		s.writeUsage(ctx, now)
	}
	return due
}

func (s *Service) writeUsage(ctx context.Context, now time.Time) {
	u := s.usage
	if u.store == nil {
		return
	}
	var put, gone []CredentialUse
	st := s.state.Load()
	u.last.Range(func(key, value any) bool {
		name, use := key.(credentialName), value.(*lastUse)
		at := use.at.Load()
		switch c, ok := st.client(name.client, now); {
		case !ok || !c.hasCredential(name.credential):
			gone = append(gone, CredentialUse{Client: name.client, Credential: name.credential})
		case at != use.saved.Load():
			put = append(put, CredentialUse{name.client, name.credential, time.Unix(at, 0)})
		}
		return true
	})
	if len(put)+len(gone) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, failureCheck)
	defer cancel()
	if err := u.store.SaveUses(ctx, put, gone); err != nil {
		return // tried again; the store says by itself what is wrong with it
	}
	for _, p := range put {
		if use, ok := u.last.Load(credentialName{p.Client, p.Credential}); ok {
			use.(*lastUse).saved.Store(p.Last.Unix())
		}
	}
	for _, g := range gone {
		u.last.Delete(credentialName{g.Client, g.Credential})
	}
}
