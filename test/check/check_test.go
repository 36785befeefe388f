package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// story is a history in which all is well. Times are in milliseconds from its
// begin.
type story struct {
	History
	t     *testing.T
	begin time.Time
	key   jose.JSONWebKey
}

func newStory(t *testing.T) *story {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, begin: time.Now().Truncate(time.Second), key: jose.JSONWebKey{Key: key, KeyID: "k", Algorithm: "ES256"}}
	s.Lag, s.Deadline = time.Second, 10*time.Second
	s.Allowed = func(_ Call, c Claims) error {
		if c.Scope != "read" {
			return errors.New("its scope is " + c.Scope)
		}
		return nil
	}
	for node := range 2 {
		s.Keys = append(s.Keys, Published{Node: node, At: s.at(0), Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.key.Public()}}})
	}
	s.issue(0, "a", "read")
	s.issue(1, "b", "read")
	s.call(0, Introspect, "a", 10, 20, Yes)
	s.call(1, Introspect, "a", 10, 20, Yes)
	s.call(0, Revoke, "a", 100, 200, Yes)
	s.call(0, Introspect, "a", 150, 160, Yes) // before it was acknowledged
	s.call(0, Introspect, "a", 210, 220, No)
	s.call(1, Introspect, "a", 900, 910, Yes) // elsewhere, for a time
	s.call(1, Exchange, "a", 1300, 1310, No)
	s.call(1, Revoke, "b", 100, 200, Unknown)
	s.call(0, Introspect, "b", 4000, 4010, No) // it was done after all
	s.call(0, Use, "one", 0, 10, Yes)
	s.call(1, Use, "one", 5, 15, No)
	s.call(1, Use, "two", 0, 10, Unknown)
	s.call(1, Use, "two", 20, 30, Yes) // it was not used before
	s.call(1, Use, "two", 40, 50, No)
	s.write(0, 1, 0, 10, Yes)
	s.read(0, 1, 20, 30)
	s.write(0, 2, 40, 50, Unknown)
	s.read(1, 1, 60, 70)
	s.read(1, 2, 80, 90)
	s.write(1, 3, 100, 110, Yes)
	s.read(0, 3, 1200, 1300)
	s.call(0, Look, "/healthz/live", 0, 10, Yes)
	s.Usage = []Usage{{Before: use(10), After: use(11)}}
	s.Secrets = []Text{{"the secret", "0123456789abcdef"}}
	s.Texts = []Text{{"the log", "all is well"}}
	return s
}

func use(n float64) map[string]float64 {
	m := map[string]float64{}
	for name := range Slack {
		m[name] = n
	}
	return m
}

func (s *story) at(ms int) time.Time { return s.begin.Add(time.Duration(ms) * time.Millisecond) }

func (s *story) call(node int, kind Kind, key string, begin, end int, a Answer) *Call {
	status := map[Answer]int{Yes: 200, No: 400, Unknown: 503}[a]
	if kind == Introspect {
		status = 200
	}
	s.Calls = append(s.Calls, Call{Node: node, Kind: kind, Key: key, Begin: s.at(begin), End: s.at(end), Answer: a, Status: status, RetryAfter: true})
	return &s.Calls[len(s.Calls)-1]
}

func (s *story) write(node, value, begin, end int, a Answer) {
	s.call(node, Write, "r", begin, end, a).Value = value
}
func (s *story) read(node, value, begin, end int) {
	s.call(node, Read, "r", begin, end, Yes).Value = value
}

func (s *story) issue(node int, jti, scope string) *Call {
	c := s.call(node, Issue, "", 0, 5, Yes)
	c.Token = s.sign(jti, scope)
	r, err := ParseRecord(node, fmt.Appendf(nil, `{"event":"token","outcome":"allow","issued":{"jti":%q}}`, jti))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Records = append(s.Records, r)
	return c
}

func (s *story) sign(jti, scope string) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	claims := Claims{Claims: jwt.Claims{ID: jti, Expiry: jwt.NewNumericDate(s.at(60_000))}, Scope: scope}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// TestCheck: a good history passes, and each row makes one wrong in one way, which
// is found and nothing else.
func TestCheck(t *testing.T) {
	rows := []struct {
		name string
		edit func(*story)
		want string // the one invariant that is violated
	}{
		{"all is well", func(*story) {}, ""},
		{"allowed what must be refused", func(s *story) { s.call(0, Issue, "", 0, 5, Yes).Forbidden = true }, "V1"},
		{"a scope too many", func(s *story) { s.issue(0, "c", "read write") }, "V1"},
		{"active after it was revoked", func(s *story) { s.call(0, Introspect, "a", 300, 310, Yes) }, "V2"},
		{"exchanged after it was revoked", func(s *story) { s.call(0, Exchange, "a", 300, 310, Yes) }, "V2"},
		{"active elsewhere after the lag", func(s *story) { s.call(1, Introspect, "a", 1201, 1210, Yes) }, "V2"},
		{"active again elsewhere", func(s *story) {
			s.call(1, Introspect, "a", 400, 410, No)
			s.call(1, Introspect, "a", 420, 430, Yes)
		}, "V2"},
		{"inactive before it was revoked", func(s *story) { s.call(0, Introspect, "a", 30, 40, No) }, "V2"},
		{"an unknown revocation taken back", func(s *story) { s.call(0, Introspect, "b", 5000, 5010, Yes) }, "V2"},
		{"used twice", func(s *story) { s.call(1, Use, "one", 500, 510, Yes) }, "V3"},
		{"used twice at once", func(s *story) { s.call(1, Use, "one", 0, 10, Yes) }, "V3"},
		{"called used, and was not", func(s *story) { s.call(1, Use, "three", 0, 10, No) }, "V3"},
		{"unpublished key", func(s *story) {
			s.key.KeyID = "other"
			s.issue(0, "c", "read")
		}, "V4"},
		{"forged", func(s *story) {
			other := newStory(s.t)
			c := s.issue(0, "c", "read")
			c.Token = other.sign("c", "read")
		}, "V4"},
		{"key taken away too early", func(s *story) {
			s.Keys = append(s.Keys, Published{Node: 1, At: s.at(30_000)})
		}, "V4"},
		{"no record", func(s *story) { s.Records = s.Records[1:] }, "V5"},
		{"two records", func(s *story) { s.Records = append(s.Records, s.Records[0]) }, "V5"},
		{"two tokens of one name", func(s *story) { s.issue(0, "a", "read") }, "V5"},
		{"recorded elsewhere", func(s *story) { s.Records[0].Node = 1 }, "V5"},
		{"lost write", func(s *story) { s.read(0, 2, 4000, 4010) }, "V6"},
		{"gone", func(s *story) { s.read(0, 0, 4000, 4010) }, "V6"},
		{"backwards elsewhere", func(s *story) { s.read(1, 1, 95, 98) }, "V6"},
		{"never written", func(s *story) { s.read(0, 9, 4000, 4010) }, "V6"},
		{"leak", func(s *story) { s.Usage[0].After = use(1 << 30) }, "V7"},
		{"not measured", func(s *story) { s.Usage[0].After = nil }, "V7"},
		{"too late", func(s *story) { s.call(0, Issue, "", 0, 10_001, No) }, "V8"},
		{"no answer", func(s *story) { s.call(0, Issue, "", 0, 10, Unknown).Status = 0 }, "V8"},
		{"no answer from the other node", func(s *story) {
			s.Outages = []Outage{{Node: 1, From: s.at(0), To: s.at(100)}}
			s.call(0, Issue, "", 0, 10, Unknown).Status = 0
		}, "V8"},
		{"no answer from one that was killed", func(s *story) {
			s.Outages = []Outage{{Node: 1, From: s.at(0), To: s.at(100)}}
			s.call(1, Issue, "", 0, 10, Unknown).Status = 0
		}, ""},
		{"bare error", func(s *story) { s.call(0, Issue, "", 0, 10, Unknown).Status = 500 }, "V8"},
		{"without a time to come again", func(s *story) { s.call(0, Issue, "", 0, 10, Unknown).RetryAfter = false }, "V8"},
		{"half a body", func(s *story) { s.call(0, Issue, "", 0, 10, No).Problem = "unexpected end" }, "V8"},
		{"not alive", func(s *story) { s.call(0, Look, "/healthz/live", 0, 10, No) }, "V9"},
		{"secret in the log", func(s *story) { s.Texts[0].Text = "it is 0123456789abcdef." }, "V10"},
		{"secret too short", func(s *story) { s.Secrets[0].Text = "" }, "V10"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newStory(t)
			row.edit(s)
			var got []string
			for _, v := range Check(s.History) {
				t.Log(v)
				got = append(got, v.Invariant)
			}
			if got := strings.Join(slices.Compact(got), " "); got != row.want {
				t.Errorf("violations of %q, want %q", got, row.want)
			}
		})
	}
}

// TestUnknown: a history with many calls of which nobody knows what they did is
// checked quickly, and one of them can be what made it right.
func TestUnknown(t *testing.T) {
	s := newStory(t)
	for i := range 200 {
		s.write(0, 10+i, 5000+i, 5000+i, Unknown)
		s.call(0, Revoke, "c", 5000+i, 5000+i, Unknown)
		s.call(0, Use, "c", 5000+i, 5000+i, Unknown)
	}
	s.read(0, 42, 6000, 6001)
	s.read(1, 3, 6002, 6003)
	s.read(1, 57, 6004, 6005)
	s.call(0, Introspect, "c", 6000, 6001, Yes)
	s.call(0, Introspect, "c", 6002, 6003, No)
	s.call(1, Use, "c", 6000, 6001, No)
	begin := time.Now()
	for _, v := range Check(s.History) {
		t.Error(v)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("checked in %v", took)
	}
}

// TestMany: of violations that repeat, the first ones are told.
func TestMany(t *testing.T) {
	s := newStory(t)
	for range 100 {
		s.call(0, Issue, "", 0, 10, Unknown).Status = 500
	}
	got := Check(s.History)
	if len(got) != most+1 || got[most].Text != "and 95 more" {
		t.Errorf("%v", got)
	}
}
