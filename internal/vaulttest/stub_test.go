package vaulttest

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// raw calls the stub and returns what came over the wire.
func raw(t *testing.T, s *Stub, method, path, body string, timeout time.Duration) (*http.Response, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.Addr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", s.RootToken)
	client := http.Client{Transport: s.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res, string(data), err
}

const (
	inputs = `{"input":"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=","prehashed":true,"marshaling_algorithm":"jws"}`
	batch  = `{"batch_input":[{"input":"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},{"input":"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="}],"prehashed":true,"marshaling_algorithm":"jws"}`
)

var message = []byte("abc") // whose hash is in inputs

// TestStatusFaults looks at the faults that a caller sees in the status line.
func TestStatusFaults(t *testing.T) {
	s := NewStub(t, StubConfig{})
	s.AddKey(t, "k", "ecdsa-p256")
	for _, class := range []struct {
		Class
		method, path, body string
	}{
		{Login, "POST", "auth/approle/login", `{"role_id":"role-id","secret_id":"secret-id"}`},
		{Read, "GET", "transit/keys/k", ""},
		{Sign, "POST", "transit/sign/k/sha2-256", inputs},
		{Lookup, "GET", "auth/token/lookup-self", ""},
		{Health, "GET", "sys/health", ""},
	} {
		for _, c := range []struct {
			fault  Fault
			status int
			header string
			body   string
		}{
			{Fault{}, 200, "", `"`},
			{Status(403), 403, "", `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`},
			{Status(404), 404, "", `{"errors":[]}`},
			{TooMany(3 * time.Second), 429, "3", "rate limit quota exceeded"},
			{Status(472), 472, "", ""},
			{Status(473), 473, "", ""},
			{Status(500), 500, "", "internal error"},
			{Status(501), 501, "", "not initialized"},
			{Status(503), 503, "", `{"errors":["Vault is sealed"]}`},
			{Redirect("https://active.example:8200/"), 307, "https://active.example:8200/v1/" + class.path, ""},
			{Garbage(), 200, "", "<html>"},
			{Huge(1 << 20), 200, "", strings.Repeat("A", 1<<20)},
		} {
			s.Inject(class.Class, c.fault)
			res, body, err := raw(t, s, class.method, class.path, class.body, patience)
			if err != nil {
				t.Fatal(err)
			}
			header := res.Header.Get("Retry-After") + res.Header.Get("Location")
			if res.StatusCode != c.status || header != c.header || !strings.Contains(body, c.body) {
				t.Errorf("%s: %d %q %.100s, want %d %q %.100s", class.Class, res.StatusCode, header, body, c.status, c.header, c.body)
			}
		}
		s.InjectTimes(class.Class, 1, Status(500))
		for _, want := range []int{500, 200} {
			if res, body, err := raw(t, s, class.method, class.path, class.body, patience); err != nil || res.StatusCode != want {
				t.Errorf("%s, one fault: %v %s %v, want %d", class.Class, res, body, err, want)
			}
		}
	}
}

// TestTransportFaults looks at those that leave no whole answer.
func TestTransportFaults(t *testing.T) {
	s := NewStub(t, StubConfig{})
	s.AddKey(t, "k", "ecdsa-p256")
	read := func(timeout time.Duration) (*http.Response, string, error) {
		return raw(t, s, "GET", "transit/keys/k", "", timeout)
	}
	s.Inject(Read, Reset())
	if _, body, err := read(patience); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %q, %v", body, err)
	}
	s.Inject(Read, Truncated())
	if res, body, err := read(patience); err != nil || res.StatusCode != 200 || json.Valid([]byte(body)) || !strings.HasPrefix(body, "{") {
		t.Errorf("truncated: %q, %v", body, err)
	}
	s.Inject(Read, Status(503).After(60*time.Millisecond))
	start := time.Now()
	if res, _, err := read(patience); err != nil || res.StatusCode != 503 || time.Since(start) < 60*time.Millisecond {
		t.Errorf("delayed: %v, %v after %v", res, err, time.Since(start))
	}
	s.Inject(Read, Hang())
	if _, body, err := read(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging: %q, %v", body, err)
	}
	answered := make(chan error, 1)
	before := s.Count(Read)
	go func() {
		res, body, err := read(patience)
		if err == nil && res.StatusCode != 200 {
			err = fmt.Errorf("%s: %s", res.Status, body)
		}
		answered <- err
	}()
	s.Await(t, Read, before+1)
	s.Heal(Read)
	if err := <-answered; err != nil {
		t.Errorf("hanging, then healed: %v", err)
	}
	s.Inject(AnyCall, Reset())
	if _, body, err := read(patience); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("any call reset: %q, %v", body, err)
	}
	s.Heal()
	if _, _, err := read(patience); err != nil {
		t.Errorf("healed: %v", err)
	}
}

// TestSignatureFaults makes signatures that only a caller who looks will notice.
func TestSignatureFaults(t *testing.T) {
	s := NewStub(t, StubConfig{})
	s.AddKey(t, "k", "ecdsa-p256")
	s.Rotate(t, "k")
	key := s.PublicKey(t, "k", 2).(*ecdsa.PublicKey)
	for name, c := range map[string]struct {
		fault Fault
		check func(signature string, err error) bool // the error of verifying it
	}{
		"none":          {Fault{}, func(_ string, err error) bool { return err == nil }},
		"wrong version": {WrongVersion(9), func(s string, _ error) bool { return strings.HasPrefix(s, "vault:v9:") }},
		"signed by":     {SignedBy(1), func(s string, _ error) bool { return strings.HasPrefix(s, "vault:v1:") }},
		"ASN.1": {ASN1(), func(s string, _ error) bool {
			der, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "vault:v2:"))
			hash, _ := base64.StdEncoding.DecodeString("ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")
			return err == nil && ecdsa.VerifyASN1(key, hash, der)
		}},
		"other input": {OtherInput(), func(_ string, err error) bool {
			return err != nil && err.Error() == "the signature does not verify"
		}},
		"truncated": {TruncatedSignature(), func(_ string, err error) bool { return err != nil && err.Error() == "63 bytes, not 64" }},
	} {
		s.Inject(Sign, c.fault)
		_, body, err := raw(t, s, "POST", "transit/sign/k/sha2-256", inputs, patience)
		if err != nil {
			t.Fatal(err)
		}
		var answer map[string]any
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		result := data(t, answer)
		if err := verify(result, key, 2, message); !c.check(result["signature"].(string), err) {
			t.Errorf("%s: %v, %v", name, result, err)
		}
	}
	s.Inject(Sign, FailedItem(1))
	_, body, err := raw(t, s, "POST", "transit/sign/k/sha2-256", batch, patience)
	if err != nil || strings.Count(body, `"error"`) != 1 || strings.Count(body, `"signature"`) != 1 {
		t.Errorf("one item of a batch failed: %s, %v", body, err)
	}
	s.Inject(Sign, Edit(func(answer map[string]any) {
		data := answer["data"].(map[string]any)
		data["batch_results"] = data["batch_results"].([]any)[:1]
	}))
	if _, body, err := raw(t, s, "POST", "transit/sign/k/sha2-256", batch, patience); err != nil || strings.Count(body, `"signature"`) != 1 {
		t.Errorf("an item of a batch left out: %s, %v", body, err)
	}
}

func TestStubLogins(t *testing.T) {
	servers, clients, others := testserver.NewCA(t), testserver.NewCA(t), testserver.NewCA(t)
	s := NewStub(t, StubConfig{Server: servers, Clients: clients, JWT: "jwt"})
	cert, key := clients.Issue(t, "sts")
	other, otherKey := others.Issue(t, "sts")
	for name, c := range map[string]struct {
		client *Client
		path   string
		body   map[string]any
		status int
	}{
		"AppRole":                {s.As(""), "approle", map[string]any{"role_id": "role-id", "secret_id": "secret-id"}, 200},
		"wrong role id":          {s.As(""), "approle", map[string]any{"role_id": "x", "secret_id": "secret-id"}, 400},
		"wrong secret id":        {s.As(""), "approle", map[string]any{"role_id": "role-id", "secret_id": "x"}, 500},
		"Kubernetes":             {s.As(""), "kubernetes", map[string]any{"role": "role", "jwt": "jwt"}, 200},
		"Kubernetes elsewhere":   {s.As(""), "k8s/prod", map[string]any{"role": "role", "jwt": "jwt"}, 200},
		"wrong role":             {s.As(""), "kubernetes", map[string]any{"role": "x", "jwt": "jwt"}, 400},
		"wrong JWT":              {s.As(""), "kubernetes", map[string]any{"role": "role", "jwt": "x"}, 403},
		"certificate":            {s.WithCertificate(t, cert, key), "cert", map[string]any{"name": "sts"}, 200},
		"no certificate":         {s.As(""), "cert", map[string]any{"name": "sts"}, 400},
		"certificate of another": {s.WithCertificate(t, other, otherKey), "cert", nil, 400},
	} {
		status, answer := c.client.Try(t, "POST", "auth/"+c.path+"/login", c.body)
		if status != c.status {
			t.Errorf("%s: %d %v, want %d", name, status, answer, c.status)
		}
		if status == 200 {
			token := text(t, answer, "auth", "client_token")
			s.As(token).Do(t, "GET", "auth/token/lookup-self", nil)
			c.client.As(token).Do(t, "POST", "auth/token/renew-self", nil)
			if status, answer := s.As(token).Try(t, "POST", "auth/token/renew-self", nil); (status == 200) != (name != "certificate") {
				t.Errorf("%s, renewed without a certificate: %d %v", name, status, answer)
			}
		}
	}
}

func TestStubTokens(t *testing.T) {
	s := NewStub(t, StubConfig{TokenTTL: 2 * time.Minute, TokenMaxTTL: 5 * time.Minute})
	login := func() *Client {
		answer := s.As("").Do(t, "POST", "auth/approle/login", map[string]any{"role_id": "role-id", "secret_id": "secret-id"})
		return s.As(text(t, answer, "auth", "client_token"))
	}
	c := login()
	for body, want := range map[string]float64{`null`: 120, `{"increment":"3m"}`: 180, `{"increment":200}`: 200, `{"increment":"1h"}`: 299} {
		var increment any
		if err := json.Unmarshal([]byte(body), &increment); err != nil {
			t.Fatal(err)
		}
		answer := c.Do(t, "POST", "auth/token/renew-self", increment)
		if got := answer["auth"].(map[string]any)["lease_duration"].(float64); got > want || got < want-30 {
			t.Errorf("renewed with %s for %v s, want %v", body, got, want)
		}
	}
	s.RevokeTokens()
	for _, call := range []string{"GET auth/token/lookup-self", "POST auth/token/renew-self"} {
		method, path, _ := strings.Cut(call, " ")
		if status, answer := c.Try(t, method, path, nil); status != 403 {
			t.Errorf("%s after the token was revoked: %d %v", call, status, answer)
		}
	}
	login().Do(t, "GET", "auth/token/lookup-self", nil)

	s = NewStub(t, StubConfig{NotRenewable: true, TokenTTL: 20 * time.Millisecond})
	c = login()
	if status, answer := c.Try(t, "POST", "auth/token/renew-self", nil); status != 400 && status != 403 {
		t.Errorf("renewal of what cannot be renewed: %d %v", status, answer)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if status, _ := c.Try(t, "GET", "auth/token/lookup-self", nil); status == 403 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the token does not expire")
		}
	}
}

func TestStubRecords(t *testing.T) {
	s := NewStub(t, StubConfig{Mount: "engines/transit"})
	s.AddKey(t, "k", "ecdsa-p256")
	s.Do(t, "GET", "engines/transit/keys/k", nil)
	s.Do(t, "POST", "engines/transit/sign/k", map[string]any{"input": "aGVsbG8=", "key_version": 1})
	s.Try(t, "GET", "transit/keys/k", nil)
	signs := s.Requests(Sign)
	if len(signs) != 1 || signs[0].Path != "engines/transit/sign/k" || signs[0].Method != "POST" ||
		signs[0].Body["key_version"] != 1.0 || signs[0].Header.Get("X-Vault-Token") != s.RootToken {
		t.Errorf("recorded: %+v", signs)
	}
	if s.Count(Sign) != 1 || s.Count(Read) != 1 || s.Count(Unknown) != 1 || s.Count(AnyCall) != 3 || len(s.Requests()) != 3 {
		t.Errorf("counted: %v", s.counts)
	}
	s.DeleteKey("k")
	if status, _ := s.Try(t, "GET", "engines/transit/keys/k", nil); status != 404 {
		t.Errorf("a deleted key: %d", status)
	}
}
