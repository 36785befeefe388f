package keys

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/jose"
)

// memStore keeps states in memory, and fails as a test wants.
type memStore struct {
	mu       sync.Mutex
	data     []byte
	revision int64
	after    error // what Swap returns although it has written
}

func (m *memStore) Load(context.Context, string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data), m.revision, nil
}

func (m *memStore) Swap(_ context.Context, _ string, revision int64, data []byte) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision != m.revision {
		return 0, false, nil
	}
	m.data = bytes.Clone(data)
	m.revision++
	err := m.after
	m.after = nil
	return m.revision, err == nil, err
}

func localConfig(t testing.TB) LocalConfig {
	t.Helper()
	return LocalConfig{Store: &memStore{}, Name: "default", KeyFile: filepath.Join(t.TempDir(), "key"), CreateKeyFile: true}
}

func mustOpen(t testing.TB, c LocalConfig) *Ring {
	t.Helper()
	r, err := OpenLocal(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAlgorithms makes a key of each algorithm, signs, and verifies with what is
// published [promise 5].
func TestAlgorithms(t *testing.T) {
	for _, alg := range []jose.Algorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256} {
		t.Run(string(alg), func(t *testing.T) {
			c := localConfig(t)
			c.Algorithm = alg
			r := mustOpen(t, c)
			rapid.Check(t, func(t *rapid.T) {
				payload := []byte(`{"x":"` + rapid.StringMatching(`[a-z]*`).Draw(t, "x") + `"}`)
				token, kid, err := r.Sign(context.Background(), "at+jwt", payload)
				if err != nil {
					t.Fatal(err)
				}
				jws, err := jose.Parse(token)
				if err != nil {
					t.Fatal(err)
				}
				key, ok := r.KeySet().Key(jws.Header.KeyID)
				if !ok || kid != jws.Header.KeyID || jws.Header.Algorithm != alg || jws.Verify(key) != nil || !bytes.Equal(jws.Payload, payload) {
					t.Fatalf("header %+v, kid %s", jws.Header, kid)
				}
			})
			if again := mustOpen(t, c); again.Current().ID() != r.Current().ID() {
				t.Error("opened again, the key is another")
			}
		})
	}
	c := localConfig(t)
	c.Algorithm = "HS256"
	if _, err := OpenLocal(t.Context(), c); err == nil {
		t.Error("a key for HS256 is made")
	}
}

// TestPublished holds that the published set has no private member, whatever the
// algorithm [Y-09].
func TestPublished(t *testing.T) {
	r := mustOpen(t, localConfig(t))
	raw, err := r.KeySet().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || set.Keys[0]["use"] != "sig" || set.Keys[0]["alg"] != "ES256" || set.Keys[0]["kid"] != r.Current().ID() || set.Keys[0]["d"] != "" {
		t.Errorf("%s", raw)
	}
}

// TestManyBegin opens one empty store from many processes at once: all get the
// same key.
func TestManyBegin(t *testing.T) {
	c := localConfig(t)
	var mu sync.Mutex
	ids := map[string]bool{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r, err := OpenLocal(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[r.Current().ID()] = true
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("%d keys", len(ids))
	}
}

// TestWriteMayHaveHappened opens again after a Swap that wrote and failed.
func TestWriteMayHaveHappened(t *testing.T) {
	c := localConfig(t)
	c.Store.(*memStore).after = errors.New("connection lost")
	if _, err := OpenLocal(t.Context(), c); err == nil {
		t.Fatal("the error was swallowed")
	}
	first := mustOpen(t, c).Current().ID()
	if c.Store.(*memStore).revision != 1 || mustOpen(t, c).Current().ID() != first {
		t.Error("a second key was made")
	}
}

// TestNothingOverwritten opens a key set with something wrong in one way each: a
// clear error, and neither the state nor the files change.
func TestNothingOverwritten(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*testing.T, *LocalConfig, *keyState)
		says string
	}{
		"another key file": {func(t *testing.T, c *LocalConfig, _ *keyState) {
			write(t, c.KeyFile, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
		}, "another one than they were encrypted with"},
		"key file missing": {func(t *testing.T, c *LocalConfig, _ *keyState) {
			if err := os.Remove(c.KeyFile); err != nil {
				t.Fatal(err)
			}
		}, "restore it"},
		"key file empty":     {func(t *testing.T, c *LocalConfig, _ *keyState) { write(t, c.KeyFile, "") }, "32 bytes"},
		"key file too short": {func(t *testing.T, c *LocalConfig, _ *keyState) { write(t, c.KeyFile, "AAAA") }, "32 bytes"},
		"L-10 readable by all": {func(t *testing.T, c *LocalConfig, _ *keyState) {
			if err := os.Chmod(c.KeyFile, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		"damaged":         {func(_ *testing.T, _ *LocalConfig, s *keyState) { s.Keys[0].Ciphertext[3] ^= 1 }, "does not decrypt"},
		"other kid":       {func(_ *testing.T, _ *LocalConfig, s *keyState) { s.Keys[0].ID = "x" }, "does not decrypt"},
		"other algorithm": {func(_ *testing.T, _ *LocalConfig, s *keyState) { s.Keys[0].Algorithm = jose.ES384 }, "does not decrypt"},
		"other set":       {func(_ *testing.T, c *LocalConfig, _ *keyState) { c.Name = "other" }, "does not decrypt"},
		"no current key":  {func(_ *testing.T, _ *LocalConfig, s *keyState) { s.Keys[0].Role = Next }, "no current key"},
		"two current":     {func(_ *testing.T, _ *LocalConfig, s *keyState) { s.Keys = append(s.Keys, s.Keys[0]) }, "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			c := localConfig(t)
			mustOpen(t, c)
			store := c.Store.(*memStore)
			var state keyState
			if err := json.Unmarshal(store.data, &state); err != nil {
				t.Fatal(err)
			}
			tc.edit(t, &c, &state)
			var err error
			if store.data, err = json.Marshal(state); err != nil {
				t.Fatal(err)
			}
			before, files := bytes.Clone(store.data), list(t, filepath.Dir(c.KeyFile))
			_, err = OpenLocal(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v; want an error that says %q", err, tc.says)
			}
			if !bytes.Equal(store.data, before) || list(t, filepath.Dir(c.KeyFile)) != files {
				t.Error("something was written")
			}
		})
	}
	t.Run("newer state", func(t *testing.T) {
		c := localConfig(t)
		mustOpen(t, c)
		store := c.Store.(*memStore)
		store.data = bytes.Replace(store.data, []byte(`{"keys"`), []byte(`{"more":1,"keys"`), 1)
		if _, err := OpenLocal(t.Context(), c); err == nil || !strings.Contains(err.Error(), "newer version") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no key file and none wanted", func(t *testing.T) {
		c := localConfig(t)
		c.CreateKeyFile = false
		if _, err := OpenLocal(t.Context(), c); err == nil {
			t.Error("a key file was made")
		}
	})
}

// TestAtRest holds that nothing that is stored contains the private key.
func TestAtRest(t *testing.T) {
	c := localConfig(t)
	r := mustOpen(t, c)
	private, err := r.Current().private.(interface{ Bytes() ([]byte, error) }).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	data := c.Store.(*memStore).data
	for _, form := range [][]byte{private, []byte(base64.StdEncoding.EncodeToString(private))} {
		if bytes.Contains(data, form) {
			t.Error("the private key is stored in the clear")
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// list is the names and contents of the files in a directory.
func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(e.Name() + "=" + string(data) + ";")
	}
	return out.String()
}
