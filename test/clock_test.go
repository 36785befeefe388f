package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildClocked builds, once, a server whose clock can be set.
var buildClocked = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(bin, "stsd-with-clock")
	build := exec.Command("go", "build", "-tags", "testclock", "-o", binary, "./cmd/stsd")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
})

// clocked returns what runs a server whose clock can be set, and what sets it. The
// machine's clock is left alone.
func clocked(t *testing.T) (under []string, set func(off string)) {
	t.Helper()
	binary, err := buildClocked()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "clock")
	set = func(off string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(off), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("0s")
	// The path of the usual binary comes as $0.
	return []string{"sh", "-c", `export STSD_TEST_CLOCK="` + file + `"; exec "` + binary + `" "$@"`}, set
}

// TestClockJumps sets the clock of a server an hour ahead and an hour back, while it
// runs and while it does not. What was revoked stays revoked, what was used stays
// used, and it issues, unless its signing key is not made yet by the clock [F38].
func TestClockJumps(t *testing.T) {
	under, set := clocked(t)
	h := newHistory(t, 0)
	h.rotation = "" // as it is by default
	s := h.addBolt(t.TempDir(), under...)
	c := &loadClient{h: h, rnd: h.rnd}
	h.setUp("30m")
	h.await(s)
	var revoked, kept string
	for _, token := range []*string{&revoked, &kept} {
		_, body := c.ask(s, "/oauth2/token", credentialsForm(), c.secret)
		*token, _ = body["access_token"].(string)
	}
	used := h.signer.assertion(t, s.node, nil)
	if call, body := c.ask(s, "/oauth2/token", assertionForm(used, "jwt-bearer"), nil); call.Status != http.StatusOK {
		t.Fatalf("%d %v", call.Status, body)
	}
	if call, _ := c.ask(s, "/oauth2/revoke", url.Values{"token": {revoked}}, c.secret); call.Status != http.StatusOK {
		t.Fatal(call.Status)
	}
	active := func(token string) any {
		t.Helper()
		call, body := c.ask(s, "/oauth2/introspect", url.Values{"token": {token}}, c.secret)
		if call.Status != http.StatusOK {
			t.Errorf("introspection: %d %v", call.Status, body)
		}
		return body["active"]
	}
	look := func(when string, good, issues bool) {
		t.Helper()
		if issues {
			h.await(s)
		}
		if active(revoked) != false {
			t.Errorf("%s: what was revoked is active", when)
		}
		if got := active(kept); got != good {
			t.Errorf("%s: the other token: active is %v, not %v", when, got, good)
		}
		if call, _ := c.ask(s, "/oauth2/token", assertionForm(used, "jwt-bearer"), nil); call.Status == http.StatusOK {
			t.Errorf("%s: what was used is used again", when)
		}
	}
	look("at first", true, true)
	for _, jump := range []struct {
		off          string
		good, issues bool
	}{{"1h", false, true}, {"0s", true, true}, {"-1h", false, false}, {"0s", true, true}} {
		set(jump.off)
		look("running, clock "+jump.off, jump.good, false) // what is measured by the clock is old after a jump
		h.kill(s, 0)
		if jump.off == "1h" {
			time.Sleep(1200 * time.Millisecond) // until what has expired is dropped
		}
		look("started anew, clock "+jump.off, jump.good, jump.issues)
	}
}

// TestClockUnset starts a server on a clock that was never set: it says so, and does
// not start [F39].
func TestClockUnset(t *testing.T) {
	under, set := clocked(t)
	set("-482000h") // in the seventies
	args := append(append(under[1:], filepath.Join(bin, "stsd")), "serve", "--dev", "--data", t.TempDir())
	if out, stderr, code := command(t, os.Environ(), "", under[0], args...); code != 1 || !strings.Contains(stderr, "the clock of this machine says 19") {
		t.Errorf("%d %s%s", code, out, stderr)
	}
}

// TestReleaseHasNoTestClock: what users get has no such clock [B-08].
func TestReleaseHasNoTestClock(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(bin, "stsd"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("STSD_TEST_CLOCK")) {
		t.Error("the clock of the release build can be set")
	}
}
