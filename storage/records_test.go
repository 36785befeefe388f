package storage

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
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
	s, kv := newStore(t)
	commit(t, s, kinds...)
	got := load(t, NewStore(kv)).Resources
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
	fillDeep(t, v, claims, 10)
}

// fillDeep does, down to a depth: some types hold themselves.
func fillDeep(t *testing.T, v reflect.Value, claims map[string]any, depth int) {
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
				fillDeep(t, v.Field(i), claims, depth-1)
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text <&>")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1<<60 + 1)
	case reflect.Interface:
		v.Set(reflect.ValueOf("any"))
	case reflect.Pointer:
		if depth < 0 {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fillDeep(t, v.Elem(), claims, depth-1)
	case reflect.Struct:
		for i := range v.NumField() {
			fillDeep(t, v.Field(i), claims, depth-1)
		}
	case reflect.Slice:
		if depth < 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillDeep(t, v.Index(i), claims, depth-1)
		}
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fillDeep(t, e, claims, depth-1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("name").Convert(v.Type().Key()), e)
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
		r, err = decodeResource(data)
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
	if got := load(t, s); len(got.Resources) != 0 || got.Number != 0 {
		t.Errorf("key sets are not resources: %+v", got)
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
