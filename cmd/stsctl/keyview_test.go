package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// TestKeySentences holds what is said of a key set in each state that it can be
// in.
func TestKeySentences(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	c := &cli{now: func() time.Time { return now }, zone: time.UTC}
	in := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	current := &stsv1.KeyStatus{Kid: "k1", Role: "current"}
	set := func(due *timestamppb.Timestamp, keys ...*stsv1.KeyStatus) *stsv1.KeySetStatus {
		return &stsv1.KeySetStatus{Name: "s", Algorithm: "ES256", Provider: "vault", RotationDue: due, Keys: keys}
	}
	for _, row := range []struct {
		name string
		set  *stsv1.KeySetStatus
		want []string
	}{
		{"between rotations", set(in(time.Hour), current), []string{"the next key is made in 1h0m"}},
		{"by hand", set(nil, current), []string{"the next key is made when you ask for it: `stsctl keys rotate s`"}},
		{"overdue", set(in(-time.Hour), current), []string{"WARNING: the next key was due 1h0m ago"}},
		{"one verifier", set(nil, &stsv1.KeyStatus{Role: "next", Signs: in(42 * time.Minute), Verifiers: 1}, current),
			[]string{"the next key has been fetched by 1 distinct verifier; it signs in 42m0s"}},
		{"not scheduled", set(nil, &stsv1.KeyStatus{Role: "next", Verifiers: 2}, current),
			[]string{"the next key has been fetched by 2 distinct verifiers; it is not decided yet when it signs"}},
		{"nobody has it", set(nil, &stsv1.KeyStatus{Role: "next", Signs: in(time.Minute)}, current),
			[]string{"WARNING: nobody has fetched the next key from this node yet; it signs in 1m0s, and verifiers that do not have it by then refuse its tokens"}},
		{"two next keys", set(nil, &stsv1.KeyStatus{Role: "next", Signs: in(time.Minute), Verifiers: 1}, &stsv1.KeyStatus{Role: "next", Verifiers: 1}, current),
			[]string{"the next key has been fetched by 1 distinct verifier; it signs in 1m0s", "the next key has been fetched by 1 distinct verifier; it is not decided yet when it signs"}},
		{"nothing signs", set(nil, &stsv1.KeyStatus{Role: "revoked", Revoked: in(-time.Minute)}),
			[]string{"the next key is made when you ask for it: `stsctl keys rotate s`", "WARNING: no key signs, so no token of this key set can be issued"}},
		{"not configured any more", &stsv1.KeySetStatus{Name: "s", Keys: []*stsv1.KeyStatus{current}, Problems: []string{"gone"}}, []string{"PROBLEM: gone"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := c.sentences(viewKeySet(row.set))
			if strings.Join(got, "\n") != strings.Join(row.want, "\n") {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}

// TestKeysAreSafeToShow holds that nothing that a server says breaks out of its
// line.
func TestKeysAreSafeToShow(t *testing.T) {
	const bad = "a\n\x1b[31mb"
	var out bytes.Buffer
	c := &cli{stdout: &out, now: time.Now, zone: time.UTC}
	key := &stsv1.KeyStatus{Set: bad, Kid: bad, Algorithm: bad, Role: bad, Location: bad}
	text := &output{format: "text"}
	for _, err := range []error{
		c.showKeySets([]*stsv1.KeySetStatus{{Name: bad, Algorithm: bad, Provider: bad, Keys: []*stsv1.KeyStatus{key}, Problems: []string{bad}}}, text),
		c.showRotated(key, text),
		c.showRevoked(&stsv1.RevokeKeyResponse{Revoked: key, Successor: key}, text),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if strings.ContainsFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' }) {
		t.Errorf("control characters in %q", out.String())
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "b") || strings.HasPrefix(line, "�") {
			t.Errorf("a line of the server's own: %q", line)
		}
	}
}
