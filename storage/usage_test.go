package storage

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

func TestUses(t *testing.T) {
	kv, err := OpenBolt(filepath.Join(t.TempDir(), "sts.db"), BoltOptions{})
	must(t, err)
	defer kv.Close()
	s := NewStore(kv)
	var put []sts.CredentialUse
	for i := range 2*MaxTxn + 1 {
		put = append(put, sts.CredentialUse{Client: fmt.Sprintf("a/b:%d", i), Credential: "x-_y", Last: time.Unix(int64(i), 0)})
	}
	must(t, s.SaveUses(t.Context(), put, nil))
	must(t, s.SaveUses(t.Context(), nil, put[10:]))
	_, _, err = kv.Txn(t.Context(), nil, []Op{{Key: usagePrefix + "broken", Value: []byte("x")}})
	must(t, err)
	got, err := s.LoadUses(t.Context())
	must(t, err)
	slices.SortFunc(got, func(a, b sts.CredentialUse) int { return a.Last.Compare(b.Last) })
	if !slices.Equal(got, put[:10]) {
		t.Errorf("%v", got)
	}
	// Another node has seen an earlier use, and a later one.
	u := put[5]
	for _, by := range []time.Duration{-time.Second, time.Minute} {
		other := u
		other.Last = u.Last.Add(by)
		must(t, s.SaveUses(t.Context(), []sts.CredentialUse{other}, nil))
		last, err := s.LastUse(t.Context(), u.Client, u.Credential)
		must(t, err)
		if want := u.Last.Add(max(0, by)); !last.Equal(want) {
			t.Errorf("used last at %v, want %v", last, want)
		}
	}
	if last, err := s.LastUse(t.Context(), "nobody", "x-_y"); err != nil || !last.IsZero() {
		t.Errorf("%v, %v", last, err)
	}
	// It is no resource.
	if got, err := s.Load(t.Context(), sts.Place{Line: sts.Live}); err != nil || len(got.Resources) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestFederatedClaimsSurvive holds that a number in a mapping is what it was.
func TestFederatedClaimsSurvive(t *testing.T) {
	kv, err := OpenBolt(filepath.Join(t.TempDir(), "sts.db"), BoltOptions{})
	must(t, err)
	defer kv.Close()
	s := NewStore(kv)
	claims := map[string]any{"sub": "x", "id": int64(1<<53 + 1), "share": 0.5, "on": true}
	commit(t, s, sts.Resource{Client: &sts.Client{Name: "c", Federated: &sts.FederatedIdentity{Issuer: "i", Claims: claims}}})
	list := load(t, NewStore(kv)).Resources
	for name, want := range claims {
		if got := list[0].Client.Federated.Claims[name]; got != want {
			t.Errorf("%s became %T %v", name, got, got)
		}
	}
}
