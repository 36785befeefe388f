package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"pgregory.net/rapid"
)

var _ sts.Store = (*Store)(nil)

func newStore(t testing.TB) (*Store, *Bolt) {
	t.Helper()
	b, _ := newBolt(t)
	return NewStore(b), b
}

func audience(name string) sts.Resource { return sts.Resource{Audience: &sts.Audience{Name: name}} }

func names(list []sts.Resource) string {
	var out []string
	for _, r := range list {
		out = append(out, r.Ref().Name)
	}
	return strings.Join(out, " ")
}

func TestCommit(t *testing.T) {
	ctx := t.Context()
	s, _ := newStore(t)
	if list, revision, err := s.Load(ctx); err != nil || len(list) != 0 || revision != 0 {
		t.Fatalf("Load of nothing: %v, %d, %v", list, revision, err)
	}
	first, err := s.Commit(ctx, 0, []sts.Resource{audience("b"), audience("a"), {Client: &sts.Client{Name: "a"}}}, nil)
	must(t, err)
	if _, err := s.Commit(ctx, 0, []sts.Resource{audience("late")}, nil); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("Commit on an old revision: %v", err)
	}
	if _, err := s.Commit(ctx, first+1, nil, nil); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("Commit on a revision that is not of the resources: %v", err)
	}
	second, err := s.Commit(ctx, first, []sts.Resource{audience("c")}, []sts.Ref{{Kind: sts.KindAudience, Name: "a"}})
	must(t, err)
	list, revision, err := s.Load(ctx)
	if err != nil || names(list) != "b c a" || revision != second || second <= first {
		t.Errorf("%s at %d; %d, %d; %v", names(list), revision, first, second, err)
	}
	for name, bad := range map[string][]sts.Resource{
		"no member": {{}}, "two members": {{Audience: &sts.Audience{Name: "x"}, Client: &sts.Client{Name: "x"}}},
		"twice": {audience("x"), audience("x")},
	} {
		if _, err := s.Commit(ctx, second, bad, nil); err == nil || errors.Is(err, sts.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCommitRace lets writers add to what they loaded: of those with one base only
// one wins, and what was acknowledged is there.
func TestCommitRace(t *testing.T) {
	ctx := t.Context()
	s, _ := newStore(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; i < 8; {
				_, revision, err := s.Load(ctx)
				if err == nil {
					_, err = s.Commit(ctx, revision, []sts.Resource{audience(fmt.Sprintf("a-%d-%d", w, i))}, nil)
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
	list, revision, err := s.Load(ctx)
	if err != nil || len(list) != 32 || revision != 32 {
		t.Errorf("%d resources at revision %d: %v", len(list), revision, err)
	}
}

// TestLoadStrict puts records into the store that this program would not write.
func TestLoadStrict(t *testing.T) {
	for name, c := range map[string]struct{ key, value string }{
		"good":                 {"resource/Audience/a", `{"audience":{"name":"a"}}`},
		"unknown kind":         {"resource/Widget/a", `{"widget":{"name":"a"}}`},
		"unknown member":       {"resource/Audience/a", `{"audience":{"name":"a","only_on":"monday"}}`},
		"unknown inner member": {"resource/Rule/a", `{"rule":{"name":"a","allow":{"audiences":["a"],"not_before":1}}}`},
		"other kind":           {"resource/Audience/a", `{"client":{"name":"a"}}`},
		"other name":           {"resource/Audience/a", `{"audience":{"name":"b"}}`},
		"two kinds":            {"resource/Audience/a", `{"audience":{"name":"a"},"client":{"name":"a"}}`},
		"no kind":              {"resource/Audience/a", `{}`},
		"null":                 {"resource/Audience/a", `null`},
		"null kind":            {"resource/Audience/a", `{"audience":null}`},
		"empty":                {"resource/Audience/a", ``},
		"half":                 {"resource/Audience/a", `{"audience":{"name":"a"`},
		"more behind":          {"resource/Audience/a", `{"audience":{"name":"a"}} {}`},
		"wrong type":           {"resource/Audience/a", `{"audience":{"name":"a","max_ttl":"1h"}}`},
		"no key of ours":       {"resource-old/Audience/a", `{"audience":{"name":"a"}}`},
		"number out of range":  {"resource/Rule/a", `{"rule":{"name":"a","subject":{"issuer":"i","claims":{"n":1e999}},"allow":{"audiences":["a"]}}}`},
	} {
		s, kv := newStore(t)
		put(t, kv, c.key, c.value, resourcesKey, "")
		list, _, err := s.Load(t.Context())
		if name == "good" {
			if err != nil || len(list) != 1 {
				t.Errorf("good: %v, %v", list, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.key) || list != nil {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	s, kv := newStore(t)
	put(t, kv, "resource/Audience/a", `{"audience":{"name":"a"}}`)
	if list, _, err := s.Load(t.Context()); err == nil {
		t.Errorf("a resource without the revision of the resources: %v", list)
	}
}

// TestResourceRoundTrip fills every field of every kind.
func TestResourceRoundTrip(t *testing.T) {
	claims := map[string]any{
		"s": "\x00é\u2028", "b": true, "zero": int64(0), "large": int64(math.MaxInt64), "small": int64(math.MinInt64),
		"beyond53": int64(1<<53 + 1), "f": 0.1, "huge": 1e300, "list": []any{"x", int64(1<<53 + 1), 2.5, false},
	}
	var kinds []sts.Resource
	for _, r := range []sts.Resource{{Audience: new(sts.Audience)}, {Client: new(sts.Client)}, {Issuer: new(sts.Issuer)}, {Rule: new(policy.Rule)}} {
		fillValue(t, reflect.ValueOf(&r).Elem(), claims)
		kinds = append(kinds, r)
	}
	s, _ := newStore(t)
	_, err := s.Commit(t.Context(), 0, kinds, nil)
	must(t, err)
	got, _, err := s.Load(t.Context())
	must(t, err)
	if !reflect.DeepEqual(got, kinds) {
		t.Errorf("read back:\n%s\nnot\n%s", asJSON(got), asJSON(kinds))
	}
}

func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	return fmt.Sprint(string(b), err)
}

// fillValue sets all that can be set to something that is not zero. Pointers that
// are nil at the top stay so: a resource has one kind.
func fillValue(t *testing.T, v reflect.Value, claims map[string]any) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 24, 12, 0, 0, 5, time.UTC)))
		return
	case map[string]any:
		v.Set(reflect.ValueOf(claims))
		return
	case sts.Resource:
		for i := range v.NumField() {
			if !v.Field(i).IsNil() {
				fillValue(t, v.Field(i), claims)
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text <&>")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1<<60 + 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(t, v.Elem(), claims)
	case reflect.Struct:
		for i := range v.NumField() {
			fillValue(t, v.Field(i), claims)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillValue(t, v.Index(i), claims)
		}
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fillValue(t, e, claims)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("name"), e)
	default:
		t.Fatalf("this test cannot fill a %s: teach it", v.Type())
	}
}

// TestClaimNumbers: a number means the same after it was stored.
func TestClaimNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Int64().AsAny(), rapid.Float64Range(-1e300, 1e300).AsAny()).Draw(t, "value")
		r := sts.Resource{Rule: &policy.Rule{Name: "a", Actor: &policy.Party{Claims: map[string]any{"n": value}}}}
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		r, err = decodeResource(Entry{Key: "resource/Rule/a", Value: data})
		if err != nil {
			t.Fatal(err)
		}
		got := r.Rule.Actor.Claims["n"]
		if i, ok := got.(int64); ok {
			if f, ok := value.(float64); ok && f == float64(i) && f == math.Trunc(f) {
				return // an integral float64 is written as an integer
			}
		}
		if got != value {
			t.Fatalf("%T %v became %T %v", value, value, got, got)
		}
	})
}

func TestChanged(t *testing.T) {
	ctx := t.Context()
	s, kv := newStore(t)
	woken := make(chan error)
	go func() { woken <- s.Changed(ctx, 0) }()
	put(t, kv, "other", "")
	select {
	case err := <-woken:
		t.Fatalf("woken by something else: %v", err)
	default:
	}
	revision, err := s.Commit(ctx, 0, []sts.Resource{audience("a")}, nil)
	must(t, err)
	must(t, <-woken)
	must(t, s.Changed(ctx, revision-1))
	ended, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := s.Changed(ended, revision); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a change: %v", err)
	}
	go func() { woken <- s.Changed(ctx, revision) }()
	must(t, kv.Close())
	if err := <-woken; !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestKeyStates(t *testing.T) {
	ctx := t.Context()
	s, _ := newStore(t)
	k := s.KeyStates()
	if data, revision, err := k.Load(ctx, "default"); data != nil || revision != 0 || err != nil {
		t.Fatalf("Load of nothing: %v, %d, %v", data, revision, err)
	}
	first, done, err := k.Swap(ctx, "default", 0, []byte("one"))
	if err != nil || !done {
		t.Fatal(done, err)
	}
	if _, done, err := k.Swap(ctx, "default", 0, []byte("two")); done || err != nil {
		t.Errorf("a second first state: %v, %v", done, err)
	}
	second, done, err := k.Swap(ctx, "default", first, nil)
	if err != nil || !done || second <= first {
		t.Fatal(second, done, err)
	}
	if data, revision, err := k.Load(ctx, "default"); data == nil || len(data) != 0 || revision != second || err != nil {
		t.Errorf("an empty state is not none: %v, %d, %v", data, revision, err)
	}
	if data, _, err := k.Load(ctx, "other"); data != nil || err != nil {
		t.Errorf("another set: %v, %v", data, err)
	}
	if list, revision, err := s.Load(ctx); len(list) != 0 || revision != 0 || err != nil {
		t.Errorf("key sets are not resources: %v, %d, %v", list, revision, err)
	}
	var wins []bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, done, err := k.Swap(ctx, "default", second, []byte("three"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			wins = append(wins, done)
		})
	}
	wg.Wait()
	if n := len(slices.DeleteFunc(wins, func(won bool) bool { return !won })); n != 1 {
		t.Errorf("%d of 8 won", n)
	}
}
