package keys

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/workload-sts/sts/jose"
)

// Bounds of asking an API server about tokens.
const (
	reviewAge      = 10 * time.Second // how long an answer counts
	reviewsKept    = 4096             // answers that are remembered
	reviewsAtOnce  = 16               // calls under way
	reviewsWaiting = 1024             // calls under way, and those that wait for their turn
	reviewCooldown = time.Second      // between a call that failed and the next
	maxReview      = 64 << 10         // bytes of an answer
	maxCA          = 256 << 10        // bytes of a CA file
)

var errManyReviews = errors.New("too many tokens wait to be reviewed")

// reviews asks a Kubernetes API server about tokens [TokenReview,
// authentication.k8s.io/v1].
type reviews struct {
	slots chan struct{}
	seen  *lru.Cache[reviewKey, verdict]

	mu       sync.Mutex
	client   *http.Client
	ca       string // content of the CA file that the client was made with
	underWay map[reviewKey]*review
	failed   time.Time // when a call failed last, zero after one that did not
	err      error     // of that call
}

// reviewKey is a token and the audience it is held against.
type reviewKey [sha256.Size]byte

// verdict is what the API server said.
type verdict struct {
	subject string
	err     error // is jose.ErrSignature
	until   time.Time
}

// review is a call under way. Its verdict is there when done is closed.
type review struct {
	done    chan struct{}
	verdict verdict
}

func newReviews(c *http.Client) *reviews {
	seen, _ := lru.New[reviewKey, verdict](reviewsKept) // errs only for a size below 1
	c.CheckRedirect = refuseRedirect
	return &reviews{slots: make(chan struct{}, reviewsAtOnce), seen: seen, client: c, underWay: map[reviewKey]*review{}}
}

func (v *reviews) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.client.CloseIdleConnections()
}

// Review asks the API server of an issuer whether it issued a token for an
// audience, and returns the name of whom it stands for. The answer counts for 10
// seconds: so long is a token accepted after its pod is gone.
//
// An error that is jose.ErrSignature says that the API server does not vouch for
// the token, any other that it could not be asked.
func (r *Remote) Review(ctx context.Context, issuer, token, audience string) (subject string, err error) {
	s, ok := r.source(issuer)
	if !ok || s.reviews == nil {
		return "", errNotConfigured
	}
	key := reviewKey(sha256.Sum256([]byte(token + " " + audience)))
	now := r.c.Now()
	if old, ok := s.reviews.seen.Get(key); ok && now.Before(old.until) {
		return old.subject, old.err
	}
	call, err := s.reviews.begin(r, s, key, now, token, audience)
	if err != nil {
		return "", fmt.Errorf("the API server of issuer %q: %w", s.name, err)
	}
	select {
	case <-call.done:
		return call.verdict.subject, call.verdict.err
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the API server of issuer %q: %w", s.name, ctx.Err())
	}
}

// begin returns the call about a token, which it starts unless it is under way.
func (v *reviews) begin(r *Remote, s *remoteSource, key reviewKey, now time.Time, token, audience string) (*review, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c, ok := v.underWay[key]; ok {
		return c, nil
	}
	switch {
	case !v.failed.IsZero() && now.Before(v.failed.Add(reviewCooldown)):
		return nil, fmt.Errorf("it failed a moment ago: %w", v.err)
	case len(v.underWay) >= reviewsWaiting:
		return nil, errManyReviews
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return nil, errClosed
	}
	c := &review{done: make(chan struct{})}
	v.underWay[key] = c
	r.wg.Go(func() {
		defer close(c.done)
		c.verdict = v.decide(r, s, token, audience)
		if c.verdict.err == nil || errors.Is(c.verdict.err, jose.ErrSignature) {
			v.seen.Add(key, c.verdict)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.underWay, key)
	})
	return c, nil
}

// decide makes a call when it is its turn, and keeps what came of it.
func (v *reviews) decide(r *Remote, s *remoteSource, token, audience string) verdict {
	ctx, cancel := context.WithTimeout(r.ctx, r.c.FetchTimeout)
	defer cancel()
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return verdict{err: errManyReviews} // which tells nothing of the API server
	}
	subject, err := v.ask(ctx, r, s, token, audience)
	at := r.c.Now()
	failure := err
	if errors.Is(err, jose.ErrSignature) {
		failure = nil
	}
	v.mu.Lock()
	v.failed, v.err = time.Time{}, failure
	if failure != nil {
		v.failed = at
	}
	v.mu.Unlock()
	s.mu.Lock()
	s.attempted, s.err = at, failure
	if failure == nil {
		s.fetched = at
	}
	s.mu.Unlock()
	if failure != nil {
		s.counts.failed.Add(1)
		r.c.OnFetch(s.name, failure, nil)
	} else {
		s.counts.ok.Add(1)
	}
	return verdict{subject, err, at.Add(reviewAge)}
}

// ask makes one call. The token goes to the API server that is configured and to
// nobody else: no redirect is followed.
func (v *reviews) ask(ctx context.Context, r *Remote, s *remoteSource, token, audience string) (subject string, err error) {
	own, err := readToken(s.Review.TokenFile)
	if err != nil {
		return "", err
	}
	client, err := v.clientOf(r, s)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]any{"token": token, "audiences": []string{audience}},
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Review.APIServer+"/apis/authentication.k8s.io/v1/tokenreviews", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "workload-sts")
	req.Header.Set("Authorization", "Bearer "+own)
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated:
	case http.StatusUnauthorized, http.StatusForbidden:
		return "", fmt.Errorf("it does not let this service ask (status %d); bind the service account of token_file to the ClusterRole system:auth-delegator", res.StatusCode)
	default:
		return "", fmt.Errorf("the answer has status %d", res.StatusCode)
	}
	answer, err := readAll(res.Body, maxReview)
	if err != nil {
		return "", err
	}
	return readReview(answer, audience)
}

// readReview reads what an API server answered.
func readReview(answer []byte, audience string) (subject string, err error) {
	m, err := jose.ParseObject(answer)
	if err != nil {
		return "", fmt.Errorf("the answer is not a TokenReview: %w", err)
	}
	status, ok := m["status"].(map[string]any)
	if !ok || m["kind"] != "TokenReview" {
		return "", errors.New("the answer is not a TokenReview with a status")
	}
	if status["authenticated"] != true {
		return "", fmt.Errorf("%w: the API server does not know the token, or it is not for this audience", jose.ErrSignature)
	}
	// Without audiences the token is good for the API server itself, which does not
	// say that it is for us [TokenReviewStatus.audiences].
	audiences, _ := status["audiences"].([]any)
	if !slices.Contains(audiences, any(audience)) {
		return "", fmt.Errorf("%w: the API server did not confirm the audience", jose.ErrSignature)
	}
	user, _ := status["user"].(map[string]any)
	if subject, _ = user["username"].(string); subject == "" {
		return "", errors.New("the answer names no user")
	}
	return subject, nil
}

// clientOf returns the client, made anew when the CA file has changed.
func (v *reviews) clientOf(r *Remote, s *remoteSource) (*http.Client, error) {
	if s.Review.CAFile == "" {
		return v.client, nil
	}
	ca, err := readFile(s.Review.CAFile, maxCA)
	if err != nil {
		return nil, fmt.Errorf("reading the CA of the API server: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ca == string(ca) {
		return v.client, nil
	}
	src := s.Source
	src.CACertificates = string(ca)
	client, err := newHTTPClient(src, r.c.Resolver)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Review.CAFile, err)
	}
	client.CheckRedirect = refuseRedirect
	v.client.CloseIdleConnections()
	v.client, v.ca = client, string(ca)
	return client, nil
}

// reviewClient fetches the keys of an API server by the connections on which it is
// asked about tokens.
type reviewClient struct {
	r *Remote
	s *remoteSource
}

func (c reviewClient) Do(req *http.Request) (*http.Response, error) {
	client, err := c.s.reviews.clientOf(c.r, c.s)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

// CloseIdleConnections does nothing: they are closed with the reviews.
func (reviewClient) CloseIdleConnections() {}

func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
