package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// newKeyFile makes the file that local signing keys are encrypted with.
func newKeyFile(t *testing.T) string {
	t.Helper()
	var key [32]byte
	rand.Read(key[:])
	file := filepath.Join(t.TempDir(), "signing.key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key[:])), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// addBolt starts a server with an embedded store in a directory.
func (h *history) addBolt(data string, under ...string) *site {
	h.t.Helper()
	return h.add(data, fmt.Sprintf("{bolt_file: %s}", filepath.Join(data, "sts.db")), newKeyFile(h.t), under...)
}

// TestHistoryBolt kills and pauses a server with an embedded store under load, and
// checks all that its clients saw [F24, F28, V1-V10].
func TestHistoryBolt(t *testing.T) {
	h := newHistory(t, 0)
	s := h.addBolt(t.TempDir())
	h.run(6)
	for range faultsOf(t, 30) {
		time.Sleep(time.Duration(20+h.rnd.IntN(300)) * time.Millisecond)
		if h.rnd.IntN(4) == 0 {
			h.pause(s, time.Duration(h.rnd.IntN(600))*time.Millisecond)
		} else {
			h.kill(s, 0)
		}
	}
	h.end()
}
