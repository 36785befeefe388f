package keys

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/jose"
)

// fakeVault is a provider whose keys are versions that somebody else can add, as
// in Vault. It signs in memory.
type fakeVault struct {
	versions []crypto.Signer
	down     bool
	real     bool        // whether it signs, rather than pretends to
	half     func() bool // whether a new version is made although the answer is an error
}

var errDown = &unavailable{what: "vault", after: time.Second, reason: errors.New("it does not answer")}

func (*fakeVault) kind() string              { return "fake" }
func (*fakeVault) dependency() string        { return "vault" }
func (*fakeVault) location(storedKey) string { return "here" }

func (f *fakeVault) rotate() {
	k, err := generate(jose.ES256)
	if err != nil {
		panic(err)
	}
	f.versions = append(f.versions, k)
}

func (f *fakeVault) newest(s SetConfig) (storedKey, error) {
	n := len(f.versions)
	return newStoredKey(s.Name, "fake", jose.ES256, f.versions[n-1].Public(), n)
}

func (f *fakeVault) create(_ context.Context, s SetConfig, _ []storedKey) (storedKey, error) {
	if f.down {
		return storedKey{}, errDown
	}
	f.rotate()
	if f.half != nil && f.half() {
		return storedKey{}, errDown
	}
	return f.newest(s)
}

func (f *fakeVault) inspect(_ context.Context, s SetConfig, known []placed) (report, error) {
	if f.down {
		return report{}, errDown
	}
	k, err := f.newest(s)
	if err != nil {
		return report{}, err
	}
	for _, p := range known {
		if p.ID == k.ID {
			return report{}, nil
		}
	}
	return report{newer: &k}, nil
}

func (f *fakeVault) open(_ context.Context, k storedKey) (signer, error) {
	if !f.real {
		return blankSigner{}, nil
	}
	var n int
	if err := json.Unmarshal(k.Material, &n); err != nil {
		return nil, err
	}
	return memorySigner{k.Algorithm, f.versions[n-1]}, nil
}

// blankSigner stands in for a signature where only the kid matters.
type blankSigner struct{}

func (blankSigner) Sign(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil }
func (blankSigner) Err() error                                   { return nil }
func (blankSigner) Close()                                       {}

// world is some nodes on one store and one Vault, verifiers that cache what they
// fetch exactly as long as they were told, and a clock.
type world struct {
	t         *rapid.T
	schedule  Schedule
	now       time.Time // of nobody in particular
	store     *memStore
	vault     *fakeVault
	nodes     []*modelNode
	verifiers []*modelVerifier
	tokens    []modelToken
	emergency time.Time // until when the last revocation excuses verifiers
}

type modelNode struct {
	offset time.Duration // of its clock
	link   *link
	ring   *Ring // nil: down
}

type modelVerifier struct {
	offset time.Duration
	set    jose.KeySet
	until  time.Time
}

type modelToken struct {
	value   string
	kid     string
	expires time.Time // by the clock of who signed
}

func (w *world) clock(offset time.Duration) func() time.Time {
	return func() time.Time { return w.now.Add(offset) }
}

func (w *world) start(n *modelNode) {
	lose := func() bool { return rapid.IntRange(0, 19).Draw(w.t, "lose") == 0 }
	n.link = &link{memStore: w.store, lose: lose}
	r, err := Open(context.Background(), Config{
		Store: n.link, Schedule: w.schedule, Now: w.clock(n.offset), Log: slog.New(slog.DiscardHandler),
		Sets: []SetConfig{{Name: "default", Algorithm: jose.ES256, Provider: w.vault}},
	})
	if err == nil {
		n.ring = r
	}
}

// tend is what Run does, one round of it.
func (w *world) tend(n *modelNode) {
	if n.ring == nil {
		w.start(n)
		return
	}
	ctx := context.Background()
	_ = n.ring.load(ctx)
	_ = n.ring.sweep(ctx)
	n.ring.step(ctx, n.ring.sets["default"])
	if n.link.dead {
		n.ring.Close()
		n.ring = nil
	}
}

// up returns a node that serves, nil if there is none.
func (w *world) up() *modelNode {
	first := rapid.IntRange(0, len(w.nodes)-1).Draw(w.t, "node")
	for i := range w.nodes {
		if n := w.nodes[(first+i)%len(w.nodes)]; n.ring != nil {
			return n
		}
	}
	return nil
}

func (w *world) issue() {
	n := w.up()
	if n == nil {
		return
	}
	token, kid, err := n.ring.Sign(context.Background(), "default", "at+jwt", []byte(`{}`))
	if err != nil {
		return
	}
	life := time.Duration(rapid.Int64Range(int64(time.Second), int64(w.schedule.MaxTokenLifetime())).Draw(w.t, "life"))
	w.tokens = append(w.tokens, modelToken{value: token, kid: kid, expires: n.ring.c.Now().Add(life)})
}

// verify lets a verifier meet a token that is alive by its clock.
func (w *world) verify(v *modelVerifier, tok modelToken) {
	now := w.now.Add(v.offset)
	if !now.Before(tok.expires) {
		return
	}
	if !now.Before(v.until) {
		// A node that has not heard from its store for too long says that it is not
		// ready, and is not asked.
		n := w.up()
		if n == nil || n.ring.MaxAge() == 0 {
			return
		}
		v.set, v.until = n.ring.KeySet(), now.Add(n.ring.MaxAge().Truncate(time.Second))
	}
	if w.excused(tok.kid) {
		return
	}
	jws, err := jose.Parse(tok.value)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, ok := v.set.Key(jws.Header.KeyID); !ok {
		w.t.Fatalf("at %s a verifier that cached until %s does not know key %s of a token that expires at %s\nstate: %s",
			now, v.until, tok.kid, tok.expires, w.store.data)
	}
}

func (w *world) revoke() {
	n := w.up()
	if n == nil {
		return
	}
	s := n.ring.stateNow()
	kid := s.Keys[rapid.IntRange(0, len(s.Keys)-1).Draw(w.t, "victim")].ID
	// It waits for another node that has begun to make a key, and is dead maybe.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, _ = n.ring.Revoke(ctx, kid) // an error may have left it revoked
	w.emergency = w.now.Add(w.surprise())
}

// surprise is how long verifiers may be surprised after an emergency: as long as
// they may have cached, and as long as a node may not have heard.
func (w *world) surprise() time.Duration {
	return w.schedule.PublishAhead + w.schedule.Skew + w.schedule.MaxAge + maxStaleness
}

// excused tells whether a token need not verify: its key was revoked, or signs
// because another was, and the window that was declared is still open.
func (w *world) excused(kid string) bool {
	s, err := decodeState(w.store.data)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.now.Before(w.emergency) {
		return true
	}
	i := s.key(kid)
	if i < 0 {
		return false // all its tokens have expired
	}
	k := s.Keys[i]
	return k.revoked() || i > 0 && k.Signs.Sub(k.Published) < w.schedule.PublishAhead && w.now.Before(k.Signs.Add(w.surprise()))
}

func drawSchedule(t *rapid.T) Schedule {
	s := Schedule{
		MaxAge: time.Duration(rapid.IntRange(1, 600).Draw(t, "max age")) * time.Second,
		Skew:   time.Duration(rapid.IntRange(0, 60).Draw(t, "skew")) * time.Second,
	}
	s.PublishAhead = s.MaxAge + s.Skew + time.Duration(rapid.IntRange(0, 600).Draw(t, "ahead"))*time.Second
	s.Retain = s.Skew + time.Duration(rapid.IntRange(10, 7200).Draw(t, "retain"))*time.Second
	s.Period = max(s.PublishAhead, s.Retain/(maxPublished-1)) + time.Duration(rapid.IntRange(0, 3600).Draw(t, "period"))*time.Second
	return s
}

// TestRotationModel holds promise 4 through random schedules, nodes, clocks,
// crashes, lost answers, partitions, outages, rotations by hand and behind our
// back: every token that is alive verifies with what any verifier has cached,
// apart from what an emergency declares.
func TestRotationModel(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue && !testing.Short() {
		if err := flag.Set("rapid.checks", modelChecks); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", f.DefValue)
	}
	rotations, tokens := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, schedule: drawSchedule(t), now: time.Unix(1_800_000_000, 0), store: newMemStore(), vault: &fakeVault{}}
		w.vault.rotate()
		w.vault.half = func() bool { return rapid.IntRange(0, 4).Draw(t, "half") == 0 }
		if problems := w.schedule.Check(); len(problems) > 0 {
			t.Fatal(problems)
		}
		// Any two clocks differ by Skew at most.
		offset := func() time.Duration {
			return time.Duration(rapid.Int64Range(-int64(w.schedule.Skew)/2, int64(w.schedule.Skew)/2).Draw(t, "offset"))
		}
		for range rapid.IntRange(1, 3).Draw(t, "nodes") {
			w.nodes = append(w.nodes, &modelNode{offset: offset()})
		}
		for range 4 {
			w.verifiers = append(w.verifiers, &modelVerifier{offset: offset()})
		}
		for range rapid.IntRange(30, 120).Draw(t, "steps") {
			w.round()
		}
		if s, err := decodeState(w.store.data); err == nil {
			rotations += len(s.Keys)
		}
		tokens += len(w.tokens)
	})
	if !testing.Short() && (rotations < 200 || tokens < 1000) {
		t.Errorf("only %d keys and %d tokens: the model does not do what it should", rotations, tokens)
	}
}

// round lets time pass and everybody do something.
func (w *world) round() {
	t := w.t
	most := w.schedule.PublishAhead / 4
	if rapid.IntRange(0, 9).Draw(t, "pause") == 0 {
		most = w.schedule.Period * 2
	}
	w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, "wait")))
	n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "which")]
	switch rapid.IntRange(0, 24).Draw(t, "event") {
	case 0:
		if n.link != nil {
			n.link.breakIn = rapid.IntRange(1, 6).Draw(t, "break in")
		}
	case 1:
		if n.ring != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			_, _ = n.ring.Rotate(ctx, "default")
			cancel()
		}
	case 2:
		w.vault.rotate()
	case 3:
		w.vault.down = !w.vault.down
	case 4:
		if n.link != nil {
			n.link.cut = !n.link.cut
		}
	case 5:
		if rapid.IntRange(0, 4).Draw(t, "emergency") == 0 && n.ring != nil {
			w.revoke()
		}
	}
	for _, n := range w.nodes {
		if rapid.IntRange(0, 3).Draw(t, "tend") > 0 {
			w.tend(n)
		}
	}
	for range 3 {
		w.issue()
	}
	for i := range w.tokens {
		if i >= len(w.tokens)-6 || rapid.IntRange(0, 9).Draw(t, "meet") == 0 {
			w.verify(w.verifiers[rapid.IntRange(0, len(w.verifiers)-1).Draw(t, "verifier")], w.tokens[i])
		}
	}
	// What has expired is no more to be met.
	live := w.tokens[:0]
	for _, tok := range w.tokens {
		if w.now.Before(tok.expires.Add(w.schedule.Skew)) {
			live = append(live, tok)
		}
	}
	w.tokens = live
}
