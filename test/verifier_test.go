package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/workload-sts/sts/jose"
)

// verifier checks tokens with a key set that it caches for exactly as long as the
// server allows.
type verifier interface {
	verify(ctx context.Context, token string) error
}

// strictCache is a transport that caches an answer for exactly its max-age, and
// answers from that whatever is asked.
type strictCache struct {
	mu     sync.Mutex
	header http.Header
	body   []byte
	until  time.Time
	fetch  int
}

func (c *strictCache) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !time.Now().Before(c.until) {
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d", res.StatusCode)
		}
		if c.body, err = io.ReadAll(res.Body); err != nil {
			return nil, err
		}
		c.header = res.Header
		c.until = time.Now().Add(maxAge(res.Header))
		c.fetch++
	}
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: c.header, Body: io.NopCloser(bytes.NewReader(c.body)), Request: r,
	}, nil
}

func maxAge(h http.Header) time.Duration {
	_, after, ok := strings.Cut(h.Get("Cache-Control"), "max-age=")
	if !ok {
		return 0
	}
	after, _, _ = strings.Cut(after, ",")
	n, err := strconv.Atoi(after)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// goOIDC verifies with github.com/coreos/go-oidc.
type goOIDC struct {
	cache *strictCache
	*oidc.IDTokenVerifier
}

func newGoOIDC(issuer string) goOIDC {
	cache := &strictCache{}
	ctx := oidc.ClientContext(context.Background(), &http.Client{Transport: cache})
	keys := oidc.NewRemoteKeySet(ctx, issuer+"/.well-known/jwks.json")
	return goOIDC{cache, oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: "api", SupportedSigningAlgs: []string{"ES256"}})}
}

func (v goOIDC) verify(ctx context.Context, token string) error {
	_, err := v.Verify(ctx, token)
	return err
}

// model verifies with what it has cached, and looks no further.
type model struct {
	issuer string
	cache  *strictCache
}

func (v model) verify(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.issuer+"/.well-known/jwks.json", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: v.cache}).Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	set, _, err := jose.ParseKeySet(body)
	if err != nil {
		return err
	}
	jws, err := jose.Parse(token)
	if err != nil {
		return err
	}
	key, ok := set.Key(jws.Header.KeyID)
	if !ok {
		return fmt.Errorf("no key %s among the %d cached for another %s", jws.Header.KeyID, set.Len(), time.Until(v.cache.until))
	}
	return jws.Verify(key)
}

// nodeJose verifies with the npm package jose.
type nodeJose struct {
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Scanner
}

func newNodeJose(t *testing.T, issuer string) *nodeJose {
	t.Helper()
	cmd := exec.Command("node", "verifier.mjs", issuer, "api")
	cmd.Dir, cmd.Stderr = "node", os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the Node verifier ended with %v", err)
		}
	})
	return &nodeJose{in: in, out: bufio.NewScanner(out)}
}

func (v *nodeJose) verify(_ context.Context, token string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := io.WriteString(v.in, token+"\n"); err != nil {
		return err
	}
	if !v.out.Scan() {
		return errors.Join(io.ErrUnexpectedEOF, v.out.Err())
	}
	if line := v.out.Text(); line != "ok" {
		return errors.New(line)
	}
	return nil
}
