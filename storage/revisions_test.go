package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

func audience(name string) sts.Resource { return sts.Resource{Audience: &sts.Audience{Name: name}} }

func names(list []sts.Resource) string {
	var out []string
	for _, r := range list {
		out = append(out, r.Ref().Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// live is a commit that adds to the live revision of a number.
func live(base int64, put ...sts.Resource) sts.Commit {
	return sts.Commit{Line: sts.Live, Expected: base, From: sts.Place{Line: sts.Live, Number: base}, Put: put}
}

func load(t testing.TB, s *Store) sts.Contents {
	t.Helper()
	got, err := s.Load(t.Context(), sts.Place{Line: sts.Live})
	must(t, err)
	return got
}

// commit adds to what is in force.
func commit(t testing.TB, s *Store, put ...sts.Resource) sts.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), live(load(t, s).Number, put...))
	must(t, err)
	return r
}

func TestCommit(t *testing.T) {
	ctx := t.Context()
	s, kv := newStore(t)
	if got := load(t, s); len(got.Resources) != 0 || got.Number != 0 {
		t.Fatalf("Load of nothing: %v", got)
	}
	if _, err := s.Load(ctx, sts.Place{Line: sts.Shadow}); !errors.Is(err, sts.ErrNoRevision) {
		t.Errorf("Load of no shadow: %v", err)
	}
	c := live(0, audience("b"), audience("a"), sts.Resource{Client: &sts.Client{Name: "a"}})
	c.Revision = sts.Revision{Time: time.Unix(1, 5).UTC(), By: sts.Principal{Name: "n", Method: "m", Peer: "p"}, Why: "w"}
	c.Created.Add(sts.Ref{Kind: sts.KindAudience, Name: "b"})
	first, err := s.Commit(ctx, c)
	must(t, err)
	for _, base := range []int64{0, 2, -1} {
		if _, err := s.Commit(ctx, live(base, audience("late"))); !errors.Is(err, sts.ErrConflict) {
			t.Errorf("Commit on revision %d: %v", base, err)
		}
	}
	c = live(first.Number, audience("c"))
	c.Delete = []sts.Ref{{Kind: sts.KindAudience, Name: "a"}}
	second, err := s.Commit(ctx, c)
	must(t, err)
	for _, s := range []*Store{s, NewStore(kv)} {
		if got := load(t, s); names(got.Resources) != "a b c" || got.Number != 2 || second.Number != 2 || got.Size != 3 {
			t.Errorf("%s: %+v", names(got.Resources), got.Revision)
		}
		old, err := s.Load(ctx, sts.Place{Line: sts.Live, Number: 1})
		if err != nil || names(old.Resources) != "a a b" || old.Why != "w" || old.By.Peer != "p" || !old.Time.Equal(time.Unix(1, 5)) {
			t.Errorf("%s: %+v, %v", names(old.Resources), old.Revision, err)
		}
		if _, err := s.Load(ctx, sts.Place{Line: sts.Live, Number: 3}); !errors.Is(err, sts.ErrNoRevision) {
			t.Errorf("Load of what is not there yet: %v", err)
		}
		history, err := s.Revisions(ctx, 0, 10)
		if err != nil || len(history) != 2 || history[0].Number != 2 || history[1].Created.Count != 1 {
			t.Errorf("%+v, %v", history, err)
		}
		if history, err = s.Revisions(ctx, 2, 1); err != nil || len(history) != 1 || history[0].Number != 1 {
			t.Errorf("%+v, %v", history, err)
		}
	}
	for name, bad := range map[string][]sts.Resource{
		"no member": {{}}, "two members": {{Audience: &sts.Audience{Name: "x"}, Client: &sts.Client{Name: "x"}}},
		"twice": {audience("x"), audience("x")}, "no name": {audience("")},
		"large": {{Audience: &sts.Audience{Name: "huge", Description: strings.Repeat("x", MaxTxnBytes)}}},
	} {
		_, err := s.Commit(ctx, live(2, bad...))
		if err == nil || errors.Is(err, sts.ErrConflict) || name == "large" && !strings.Contains(err.Error(), `"huge"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := load(t, NewStore(kv)); got.Number != 2 {
		t.Errorf("after refused commits: %+v", got.Revision)
	}
}

// TestLargeResources holds that a bucket has room for whatever it is given.
func TestLargeResources(t *testing.T) {
	s, kv := newStore(t)
	var put []sts.Resource
	for i := range 20 {
		put = append(put, sts.Resource{Audience: &sts.Audience{Name: fmt.Sprint(i), Description: strings.Repeat("x", sts.MaxResourceSize-200)}})
	}
	commit(t, s, put...)
	put[3].Audience = &sts.Audience{Name: "3"}
	commit(t, s, put[3])
	got := load(t, NewStore(kv))
	if len(got.Resources) != 20 || got.Number != 2 {
		t.Errorf("%d resources of revision %d", len(got.Resources), got.Number)
	}
}

func TestShadowLine(t *testing.T) {
	ctx := t.Context()
	s, kv := newStore(t)
	commit(t, s, audience("a"))
	propose := func(expected int64, name string) error {
		_, err := s.Commit(ctx, sts.Commit{Line: sts.Shadow, Expected: expected, From: sts.Place{Line: sts.Live, Number: 1}, Put: []sts.Resource{audience(name)}})
		return err
	}
	must(t, propose(0, "b"))
	if err := propose(0, "late"); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("a proposal on a proposal that is gone: %v", err)
	}
	must(t, propose(1, "c"))
	if got := load(t, NewStore(kv)); names(got.Resources) != "a" {
		t.Errorf("the live revision has %s", names(got.Resources))
	}
	got, err := NewStore(kv).Load(ctx, sts.Place{Line: sts.Shadow})
	if err != nil || got.Number != 2 || names(got.Resources) != "a c" {
		t.Errorf("%+v, %v", got, err)
	}
	promote := sts.Commit{Line: sts.Live, Expected: 1, EndsShadow: 1, From: sts.Place{Line: sts.Shadow, Number: 2}}
	if _, err := s.Commit(ctx, promote); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("promoting another proposal: %v", err)
	}
	promote.EndsShadow = 2
	_, err = s.Commit(ctx, promote)
	must(t, err)
	if got := load(t, NewStore(kv)); names(got.Resources) != "a c" || got.Number != 2 {
		t.Errorf("promoted: %+v", got)
	}
	if err := s.Discard(ctx, 2); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("discarding what was promoted: %v", err)
	}
	must(t, propose(0, "d"))
	must(t, s.Discard(ctx, 3))
	if _, err := s.Load(ctx, sts.Place{Line: sts.Shadow}); !errors.Is(err, sts.ErrNoRevision) {
		t.Errorf("discarded: %v", err)
	}
	must(t, propose(0, "e"))
	if got, err := s.Load(ctx, sts.Place{Line: sts.Shadow}); err != nil || got.Number != 4 {
		t.Errorf("a number was used twice: %+v, %v", got, err)
	}
}

// TestCommitRace lets writers add to what they loaded: of those with one base only
// one wins, and what was acknowledged is there.
func TestCommitRace(t *testing.T) {
	ctx := t.Context()
	first, kv := newStore(t)
	var wg sync.WaitGroup
	for w := range 4 {
		s := first
		if w > 1 {
			s = NewStore(kv) // another node
		}
		wg.Go(func() {
			for i := 0; i < 8; {
				got, err := s.Load(ctx, sts.Place{Line: sts.Live})
				if err == nil {
					_, err = s.Commit(ctx, live(got.Number, audience(fmt.Sprintf("a-%d-%d", w, i))))
				}
				if err == nil {
					i++
				} else if !errors.Is(err, sts.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := load(t, first); len(got.Resources) != 32 || got.Number != 32 {
		t.Errorf("%d resources at revision %d", len(got.Resources), got.Number)
	}
}

// TestFollow: what is in force is told at the beginning, when it changes, and again
// when nothing does.
func TestFollow(t *testing.T) {
	s, kv := newStore(t)
	commit(t, s, audience("a"))
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan sts.Heads)
	done := make(chan error)
	go func() {
		done <- s.Follow(ctx, func(h sts.Heads) error {
			select {
			case told <- h:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	if h := <-told; h.Live != 1 || h.Shadow != 0 || time.Since(h.Confirmed) > time.Minute {
		t.Errorf("%+v", h)
	}
	commit(t, NewStore(kv), audience("b"))
	before := time.Now()
	var h sts.Heads
	for h = <-told; h.Live != 2; h = <-told {
		if h.Live != 1 {
			t.Fatalf("%+v", h)
		}
	}
	for h.Confirmed.Before(before) { // without another change
		h = <-told
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop := errors.New("enough")
	if err := s.Follow(t.Context(), func(sts.Heads) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// TestLoadStrict puts what this program would not write into a page.
func TestLoadStrict(t *testing.T) {
	for name, lines := range map[string]string{
		"good":                 `{"audience":{"name":"a"}}`,
		"unknown kind":         `{"widget":{"name":"a"}}`,
		"unknown member":       `{"audience":{"name":"a","only_on":"monday"}}`,
		"unknown inner member": `{"rule":{"name":"a","allow":{"audiences":["a"],"not_before":1}}}`,
		"two kinds":            `{"audience":{"name":"a"},"client":{"name":"a"}}`,
		"no kind":              `{}`,
		"null":                 `null`,
		"null kind":            `{"audience":null}`,
		"half":                 `{"audience":{"name":"a"`,
		"more behind":          `{"audience":{"name":"a"}} {}`,
		"wrong type":           `{"audience":{"name":"a","max_ttl":"1h"}}`,
		"number out of range":  `{"rule":{"name":"a","subject":{"issuer":"i","claims":{"n":1e999}},"allow":{"audiences":["a"]}}}`,
		"twice":                "{\"audience\":{\"name\":\"a\"}}\n{\"audience\":{\"name\":\"a\"}}",
	} {
		s, kv := newStore(t)
		sum := sha256.Sum256([]byte(lines))
		hash := hex.EncodeToString(sum[:])
		put(t, kv, pagePrefix+hash, lines, headKey, `{"live":1,"shadow":0,"last_shadow":0}`, manifestKey(sts.Place{Line: sts.Live, Number: 1}),
			`{"format":1,"revision":1,"base":0,"time":"2026-01-01T00:00:00Z","by":{"name":""},"resources":1,"buckets":[["`+hash+`"]]}`)
		got, err := s.Load(t.Context(), sts.Place{Line: sts.Live})
		if name == "good" {
			if err != nil || len(got.Resources) != 1 {
				t.Errorf("good: %v, %v", got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), hash) && name != "twice" || got.Resources != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestLoadDamaged changes what is stored in every way that leaves it readable.
func TestLoadDamaged(t *testing.T) {
	key := manifestKey(sts.Place{Line: sts.Live, Number: 1})
	for name, edit := range map[string]func(kv KV, hash string, page []byte, m map[string]any){
		"page of another hash": func(kv KV, hash string, page []byte, _ map[string]any) {
			put(t, kv, pagePrefix+hash, strings.Replace(string(page), `"a"`, `"b"`, 1))
		},
		"no page": func(kv KV, hash string, _ []byte, _ map[string]any) {
			_, _, err := kv.Txn(t.Context(), nil, []Op{{Key: pagePrefix + hash, Delete: true}})
			must(t, err)
		},
		"other count":      func(_ KV, _ string, _ []byte, m map[string]any) { m["resources"] = 2 },
		"other number":     func(_ KV, _ string, _ []byte, m map[string]any) { m["revision"] = 2 },
		"newer format":     func(_ KV, _ string, _ []byte, m map[string]any) { m["format"] = 2 },
		"unknown member":   func(_ KV, _ string, _ []byte, m map[string]any) { m["only_on"] = "monday" },
		"three buckets":    func(_ KV, _ string, _ []byte, m map[string]any) { m["buckets"] = [][]string{{}, {}, {}} },
		"no buckets":       func(_ KV, _ string, _ []byte, m map[string]any) { m["buckets"] = [][]string{} },
		"the wrong bucket": func(_ KV, hash string, _ []byte, m map[string]any) { m["buckets"] = [][]string{{hash}, {hash}} },
		"the page twice":   func(_ KV, hash string, _ []byte, m map[string]any) { m["buckets"] = [][]string{{hash, hash}} },
	} {
		s, kv := newStore(t)
		commit(t, s, audience("a"))
		e, err := kv.Get(t.Context(), key)
		must(t, err)
		var m map[string]any
		must(t, json.Unmarshal(e.Value, &m))
		hash := m["buckets"].([]any)[0].([]any)[0].(string)
		page, err := kv.Get(t.Context(), pagePrefix+hash)
		must(t, err)
		edit(kv, hash, page.Value, m)
		changed, err := json.Marshal(m)
		must(t, err)
		put(t, kv, key, string(changed))
		if got, err := NewStore(kv).Load(t.Context(), sts.Place{Line: sts.Live}); err == nil || errors.Is(err, sts.ErrNoRevision) || got.Resources != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, bad := range []string{`{}x`, `{"live":-1,"shadow":0,"last_shadow":0}`, `{"live":1,"shadow":2,"last_shadow":1}`, `{"live":1,"other":1}`, ``} {
		s, kv := newStore(t)
		put(t, kv, headKey, bad)
		if _, err := s.Load(t.Context(), sts.Place{Line: sts.Live}); err == nil {
			t.Errorf("head %q is read", bad)
		}
	}
}

// TestMigrate: the layout before becomes revision 1, and what is left of it goes.
func TestMigrate(t *testing.T) {
	s, kv := newStore(t)
	put(t, kv, "resource/Audience/a", `{"audience":{"name":"a"}}`, "resource/Client/c", `{"client":{"name":"c"}}`, oldKey, "")
	put(t, kv, "resource/Audience/b", `{"audience":{"name":"b"}}`, oldKey, "")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got := load(t, NewStore(kv)); names(got.Resources) != "a b c" || got.Number != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
	wg.Wait()
	if _, err := kv.Get(t.Context(), oldKey); !errors.Is(err, ErrNotFound) {
		t.Errorf("the program before could still write: %v", err)
	}
	if done, err := s.collect(t.Context(), 10, true); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	if list, _, err := kv.List(t.Context(), oldSpace, "", 0); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	if got := load(t, s); got.Created.Count != 3 {
		t.Errorf("%+v", got.Revision)
	}
}

// TestMigrateStrict: what cannot be read in the layout before is not left out.
func TestMigrateStrict(t *testing.T) {
	for name, pairs := range map[string][]string{
		"unknown member": {"resource/Audience/a", `{"audience":{"name":"a","only_on":"monday"}}`, oldKey, ""},
		"other name":     {"resource/Audience/a", `{"audience":{"name":"b"}}`, oldKey, ""},
		"no key of ours": {"resource-old/Audience/a", `{"audience":{"name":"a"}}`, oldKey, ""},
		"no revision":    {"resource/Audience/a", `{"audience":{"name":"a"}}`},
	} {
		s, kv := newStore(t)
		put(t, kv, pairs...)
		if got, err := s.Load(t.Context(), sts.Place{Line: sts.Live}); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
