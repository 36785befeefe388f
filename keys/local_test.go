package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/jose"
)

func TestLocal(t *testing.T) { testContract(t, localBackend(t)) }

// localFixture is a Ring with local keys that have been made.
func localFixture(t *testing.T) (f fixture, keyFile string) {
	t.Helper()
	keyFile = filepath.Join(t.TempDir(), "key")
	return newFixture(t, jose.ES256, Local(keyFile, true)), keyFile
}

// TestOtherAlgorithm holds that no key is made for an algorithm that does not
// sign tokens.
func TestOtherAlgorithm(t *testing.T) {
	f, _ := localFixture(t)
	f.Sets[0].Algorithm = "HS256"
	if _, err := Open(t.Context(), f.Config); err == nil {
		t.Error("a key for HS256 is made")
	}
}

// TestPublished holds that the published set has no private member, whatever the
// algorithm [Y-09].
func TestPublished(t *testing.T) {
	for _, alg := range allAlgorithms {
		f, _ := localFixture(t)
		f.Sets[0].Algorithm = alg
		raw, err := f.open(t).KeySet().MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var set struct{ Keys []map[string]string }
		if err := json.Unmarshal(raw, &set); err != nil {
			t.Fatal(err)
		}
		if len(set.Keys) != 1 || set.Keys[0]["use"] != "sig" || set.Keys[0]["alg"] != string(alg) || set.Keys[0]["kid"] == "" {
			t.Errorf("%s", raw)
		}
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
			if _, ok := set.Keys[0][private]; ok {
				t.Errorf("%s publishes %s", alg, private)
			}
		}
	}
}

// TestWriteMayHaveHappened opens again after a Swap that wrote and failed.
func TestWriteMayHaveHappened(t *testing.T) {
	f, _ := localFixture(t)
	f.store.after = errors.New("connection lost")
	if _, err := Open(t.Context(), f.Config); err == nil {
		t.Fatal("the error was swallowed")
	}
	first := signs(t, f.open(t), "default")
	if f.store.revision != 1 || signs(t, f.open(t), "default") != first {
		t.Error("a second key was made")
	}
}

// TestNothingOverwritten opens a key set with something wrong in one way each: a
// clear error, and neither the state nor the files change.
func TestNothingOverwritten(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(t *testing.T, f *fixture, keyFile string, s *state)
		says string
	}{
		"another key file": {func(t *testing.T, _ *fixture, keyFile string, _ *state) {
			write(t, keyFile, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
		}, "another one than it was encrypted with"},
		"key file missing": {func(t *testing.T, _ *fixture, keyFile string, _ *state) {
			if err := os.Remove(keyFile); err != nil {
				t.Fatal(err)
			}
		}, "restore it"},
		"key file empty":     {func(t *testing.T, _ *fixture, keyFile string, _ *state) { write(t, keyFile, "") }, "32 bytes"},
		"key file too short": {func(t *testing.T, _ *fixture, keyFile string, _ *state) { write(t, keyFile, "AAAA") }, "32 bytes"},
		"L-10 readable by all": {func(t *testing.T, _ *fixture, keyFile string, _ *state) {
			if err := os.Chmod(keyFile, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		"damaged": {func(t *testing.T, _ *fixture, _ string, s *state) {
			var sealed []byte
			if err := json.Unmarshal(s.Keys[0].Material, &sealed); err != nil {
				t.Fatal(err)
			}
			sealed[20] ^= 1
			s.Keys[0].Material, _ = json.Marshal(sealed)
		}, "does not decrypt"},
		"stored in part":  {func(_ *testing.T, _ *fixture, _ string, s *state) { s.Keys[0].Material = json.RawMessage(`"AAAA"`) }, "in part"},
		"other kid":       {func(_ *testing.T, _ *fixture, _ string, s *state) { s.Keys[0].ID = "x" }, "its kid is not that of the key"},
		"other algorithm": {func(_ *testing.T, _ *fixture, _ string, s *state) { s.Keys[0].Algorithm = jose.ES384 }, "wrong type, curve or size"},
		"other set": {func(_ *testing.T, f *fixture, _ string, s *state) {
			s.Keys[0].Set, f.Sets[0].Name = "other", "other"
		}, "does not decrypt"},
		"other provider": {func(_ *testing.T, _ *fixture, _ string, s *state) { s.Keys[0].Provider = "vault" }, "a name of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			f, keyFile := localFixture(t)
			f.open(t)
			s, err := decodeState(f.store.data)
			if err != nil {
				t.Fatal(err)
			}
			tc.edit(t, &f, keyFile, &s)
			if f.store.data, err = s.encode(); err != nil {
				t.Fatal(err)
			}
			before, files := bytes.Clone(f.store.data), list(t, filepath.Dir(keyFile))
			_, err = Open(t.Context(), f.Config)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v; want an error that says %q", err, tc.says)
			}
			if !bytes.Equal(f.store.data, before) || list(t, filepath.Dir(keyFile)) != files {
				t.Error("something was written")
			}
		})
	}
	for name, edit := range map[string]func(string) string{
		"newer state":  func(s string) string { return strings.Replace(s, `{"format":1`, `{"more":1,"format":1`, 1) },
		"newer format": func(s string) string { return strings.Replace(s, `"format":1`, `"format":2`, 1) },
		"twice":        func(s string) string { return s + s },
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := localFixture(t)
			f.open(t)
			f.store.data = []byte(edit(string(f.store.data)))
			if _, err := Open(t.Context(), f.Config); err == nil || !strings.Contains(err.Error(), "newer version") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("no key file and none wanted", func(t *testing.T) {
		f, keyFile := localFixture(t)
		f.Sets[0].Provider = Local(keyFile, false)
		if _, err := Open(t.Context(), f.Config); err == nil {
			t.Error("a key file was made")
		}
	})
	t.Run("replaced before a rotation", func(t *testing.T) {
		f, keyFile := localFixture(t)
		r := f.open(t)
		write(t, keyFile, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
		if _, err := r.Rotate(t.Context(), "default"); err == nil || !strings.Contains(err.Error(), "another one than it was encrypted with") {
			t.Errorf("a key was encrypted with another key file than those before: %v", err)
		}
	})
}

// TestAtRest holds that nothing that is stored contains the private key.
func TestAtRest(t *testing.T) {
	f, _ := localFixture(t)
	r := f.open(t)
	kid := signs(t, r, "default")
	private, err := r.sets["default"].signers[kid].(memorySigner).private.(interface{ Bytes() ([]byte, error) }).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range [][]byte{private, []byte(base64.StdEncoding.EncodeToString(private))} {
		if bytes.Contains(f.store.data, form) {
			t.Error("the private key is stored in the clear")
		}
	}
}

func write(t testing.TB, file, text string) {
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
