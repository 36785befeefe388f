package vault

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
)

// read makes a call that needs a token.
func readKey(c *Client) error {
	_, err := c.Key("transit", "sts").Info(context.Background())
	return err
}

// twoStubs are two nodes of one Vault: both have the key, and the token.
func twoStubs(t *testing.T) (first, second *vaulttest.Stub, c Config) {
	t.Helper()
	first, second = vaulttest.NewStub(t, vaulttest.StubConfig{}), vaulttest.NewStub(t, vaulttest.StubConfig{})
	first.AddKey(t, "sts", "ecdsa-p256")
	second.AddKey(t, "sts", "ecdsa-p256")
	c = rootConfig(t, first)
	c.Addresses = append(c.Addresses, second.Addr)
	return first, second, c
}

// TestFailover: a node that cannot serve costs no call [F02, F03].
func TestFailover(t *testing.T) {
	for name, fault := range map[string]vaulttest.Fault{
		"sealed":           vaulttest.Status(http.StatusServiceUnavailable),
		"uninitialised":    vaulttest.Status(http.StatusNotImplemented),
		"standby":          vaulttest.Status(473),
		"standby, 307":     vaulttest.Redirect("http://127.0.0.1:1"),
		"ends connections": vaulttest.Reset(),
	} {
		t.Run(name, func(t *testing.T) {
			first, second, c := twoStubs(t)
			client := ready(t, c)
			if err := readKey(client); err != nil {
				t.Fatal(err)
			}
			first.Inject(vaulttest.AnyCall, fault)
			began := time.Now()
			if err := readKey(client); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("after %s", d)
			}
			before := first.Count(vaulttest.AnyCall)
			for range 10 {
				if err := readKey(client); err != nil {
					t.Fatal(err)
				}
			}
			if n := first.Count(vaulttest.AnyCall) - before; n > 0 {
				t.Errorf("the node that cannot serve was asked %d times more", n)
			}
			// And back, when the second fails.
			first.Heal()
			second.Inject(vaulttest.AnyCall, fault)
			if err := readKey(client); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFailoverAtStart: the first address is not there at all.
func TestFailoverAtStart(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	c := approleConfig(t, stub)
	gone := testserver.NewProxy(t, stub.Addr)
	gone.Refuse()
	c.Addresses = []string{gone.Addr, stub.Addr}
	if err := readKey(ready(t, c)); err != nil {
		t.Error(err)
	}
}

// TestNoFailover: what a node has an answer to, or may have done, is not asked of
// another.
func TestNoFailover(t *testing.T) {
	first, second, c := twoStubs(t)
	client := ready(t, c)
	for _, code := range []int{400, 404, 429, 500} {
		first.InjectTimes(vaulttest.Read, 1, vaulttest.Status(code))
		if err := readKey(client); err == nil {
			t.Errorf("status %d: no error", code)
		}
	}
	first.InjectTimes(vaulttest.Unknown, 1, vaulttest.Reset())
	wantKind(t, client.Key("transit", "sts").Rotate(t.Context()), Unreachable)
	if n := first.Count(vaulttest.Unknown); n != 1 {
		t.Errorf("asked to rotate %d times", n)
	}
	if n := second.Count(vaulttest.AnyCall); n != 0 {
		t.Errorf("the other node was asked %d times", n)
	}
}

// TestAllDown names what is wrong with each.
func TestAllDown(t *testing.T) {
	first, second, c := twoStubs(t)
	client := ready(t, c)
	first.Inject(vaulttest.AnyCall, vaulttest.Redirect("http://127.0.0.1:1"))
	second.Inject(vaulttest.AnyCall, vaulttest.Status(http.StatusServiceUnavailable))
	err := readKey(client)
	wantKind(t, err, Sealed)
	for _, want := range []string{first.Addr, second.Addr, "standby", "sealed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestRedirect: what a node redirects to gets nothing, even if it is another
// address of the configuration [F02].
func TestRedirect(t *testing.T) {
	stranger := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	for _, login := range []Config{rootConfig(t, stub), approleConfig(t, stub)} {
		stub.Inject(vaulttest.AnyCall, vaulttest.Redirect(stranger.Addr))
		client := open(t, login)
		wantKind(t, readKey(client), Standby)
		client.Close()
	}
	if n := stranger.Count(vaulttest.AnyCall); n != 0 {
		t.Errorf("the stranger got %d requests", n)
	}
}

func TestNamespace(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	for _, namespace := range []string{"", "team/a"} {
		c := approleConfig(t, stub)
		c.Namespace = namespace
		client := ready(t, c)
		if err := readKey(client); err != nil {
			t.Fatal(err)
		}
		if err := client.session.health(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := stub.Requests()
		for _, r := range all[len(all)-3:] {
			want := namespace
			if r.Class == vaulttest.Health {
				want = "" // which is one of the server
			}
			if got := r.Header.Get("X-Vault-Namespace"); got != want {
				t.Errorf("%s: namespace %q, want %q", r.Path, got, want)
			}
		}
		client.Close()
	}
}

// TestEnvironment: none of it counts, and it stays as it is.
func TestEnvironment(t *testing.T) {
	trap := vaulttest.NewStub(t, vaulttest.StubConfig{})
	hostile := map[string]string{
		"VAULT_ADDR": trap.Addr, "VAULT_AGENT_ADDR": trap.Addr, "VAULT_TOKEN": "token-of-the-environment",
		"VAULT_NAMESPACE": "environment", "VAULT_HEADERS": "this is not JSON", "VAULT_WRAP_TTL": "5m",
		"VAULT_CACERT": "/nowhere/ca.pem", "VAULT_CAPATH": "/nowhere", "VAULT_CLIENT_CERT": "/nowhere/cert.pem",
		"VAULT_SKIP_VERIFY": "perhaps", "VAULT_MAX_RETRIES": "many", "VAULT_CLIENT_TIMEOUT": "soon",
		"VAULT_RATE_LIMIT": "0:0", "VAULT_SRV_LOOKUP": "true", "VAULT_TLS_SERVER_NAME": "environment",
		"VAULT_PROXY_ADDR": trap.Addr, "VAULT_HTTP_PROXY": trap.Addr, "VAULT_DISABLE_REDIRECTS": "false",
		"VAULT_MFA": "x", "HTTP_PROXY": trap.Addr, "http_proxy": trap.Addr, "HTTPS_PROXY": trap.Addr, "https_proxy": trap.Addr,
	}
	for name, value := range hostile {
		t.Setenv(name, value)
	}
	ca := testserver.NewCA(t)
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca})
	stub.AddKey(t, "sts", "ecdsa-p256")
	c := approleConfig(t, stub)
	c.CAFile = ca.File
	client := ready(t, c)
	if err := readKey(client); err != nil {
		t.Fatal(err)
	}
	for _, r := range stub.Requests() {
		for _, name := range []string{"X-Vault-Namespace", "X-Vault-Wrap-Ttl", "X-Vault-Mfa"} {
			if r.Header.Get(name) != "" {
				t.Errorf("%s: %s is %q", r.Path, name, r.Header.Get(name))
			}
		}
		if r.Header.Get("X-Vault-Token") == "token-of-the-environment" {
			t.Errorf("%s: has the token of the environment", r.Path)
		}
	}
	if n := trap.Count(vaulttest.AnyCall); n != 0 {
		t.Errorf("the trap got %d requests", n)
	}
	for name, value := range hostile {
		if got := os.Getenv(name); got != value {
			t.Errorf("%s is %q now", name, got)
		}
	}
	if (files{}).transport(c).Proxy != nil {
		t.Error("there may be a proxy")
	}
	// The other CA is not trusted, whatever VAULT_SKIP_VERIFY says.
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	c.CAFile = testserver.NewCA(t).File
	wantKind(t, readKey(open(t, c)), Unreachable)
}

// TestLogins is about each method.
func TestLogins(t *testing.T) {
	ca, clients := testserver.NewCA(t), testserver.NewCA(t)
	cert, key := clients.Issue(t, "sts-node-1")
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca, Clients: clients, JWT: "jwt"})
	stub.AddKey(t, "sts", "ecdsa-p256")
	tests := []struct {
		name  string
		login Login
		path  string
		body  map[string]any
		wrong Login
	}{
		{
			"approle", Login{AppRole: &AppRole{Mount: "team/approle", RoleID: "role-id", SecretIDFile: secretFile(t, "secret-id")}},
			"auth/team/approle/login", map[string]any{"role_id": "role-id", "secret_id": "secret-id"},
			Login{AppRole: &AppRole{RoleID: "role-id", SecretIDFile: secretFile(t, "wrong")}},
		},
		{
			"kubernetes", Login{Kubernetes: &Kubernetes{Role: "role", TokenFile: secretFile(t, "jwt")}},
			"auth/kubernetes/login", map[string]any{"role": "role", "jwt": "jwt"},
			Login{Kubernetes: &Kubernetes{Role: "role", TokenFile: secretFile(t, "wrong")}},
		},
		{
			"certificate", Login{Certificate: &Certificate{Role: "sts"}},
			"auth/cert/login", map[string]any{"name": "sts"}, Login{},
		},
		{
			"token", Login{TokenFile: secretFile(t, stub.RootToken)},
			"auth/token/lookup-self", nil, Login{TokenFile: secretFile(t, "wrong")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Addresses: []string{stub.Addr}, CAFile: ca.File, CertFile: cert, KeyFile: key, Login: tt.login}
			before := len(stub.Requests())
			client := ready(t, c)
			if err := readKey(client); err != nil {
				t.Fatal(err)
			}
			r := stub.Requests()[before]
			if r.Path != tt.path || r.Client != "sts-node-1" {
				t.Errorf("asked %s as %q", r.Path, r.Client)
			}
			for name, value := range tt.body {
				if r.Body[name] != value {
					t.Errorf("%s is %v, want %v", name, r.Body[name], value)
				}
			}
			c.Login = tt.wrong
			if tt.wrong == (Login{}) { // a certificate of another authority
				c.Login = tt.login
				c.CertFile, c.KeyFile = testserver.NewCA(t).Issue(t, "stranger")
			}
			refused := open(t, c)
			err := readKey(refused)
			wantKind(t, err, Denied)
			if strings.Contains(err.Error(), "wrong") {
				t.Errorf("the error has the credential: %v", err)
			}
		})
	}
}

// TestLoginAnswers is about answers to a login that are not one.
func TestLoginAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		fault vaulttest.Fault
		want  Kind
	}{
		"no auth":     {vaulttest.Edit(func(a map[string]any) { a["auth"] = nil }), Garbage},
		"no token":    {vaulttest.Edit(func(a map[string]any) { a["auth"].(map[string]any)["client_token"] = "" }), Garbage},
		"token lines": {vaulttest.Edit(func(a map[string]any) { a["auth"].(map[string]any)["client_token"] = "a\nX-Evil: b" }), Garbage},
		"second factor": {vaulttest.Edit(func(a map[string]any) {
			a["auth"] = map[string]any{"client_token": "", "mfa_requirement": map[string]any{"mfa_request_id": "x"}}
		}), Denied},
		"not JSON":  {vaulttest.Garbage(), Garbage},
		"truncated": {vaulttest.Truncated(), Garbage},
		"500":       {vaulttest.Status(500), Failed},
		"429":       {vaulttest.Status(429), Throttled},
		"403":       {vaulttest.Status(403), Denied},
		"404":       {vaulttest.Status(404), Denied},
	} {
		t.Run(name, func(t *testing.T) {
			stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
			stub.Inject(vaulttest.Login, tt.fault)
			wantKind(t, readKey(open(t, approleConfig(t, stub))), tt.want)
		})
	}
}

// TestSecretsStayOut: no token and no secret id is in an error or in the log.
func TestSecretsStayOut(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{SecretID: "s3cr3t-id"})
	stub.AddKey(t, "sts", "ecdsa-p256")
	var log lines
	c := Config{Addresses: []string{stub.Addr}, Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	c.Login.AppRole = &AppRole{RoleID: "role-id", SecretIDFile: secretFile(t, "s3cr3t-id")}
	client := ready(t, c)
	var said []string
	for _, fault := range []vaulttest.Fault{
		vaulttest.Status(403), vaulttest.Status(500), vaulttest.Garbage(), vaulttest.Reset(), vaulttest.Redirect(stub.Addr),
	} {
		stub.Inject(vaulttest.Read, fault)
		said = append(said, readKey(client).Error())
	}
	stub.Heal()
	stub.RevokeTokens()
	eventually(t, "another login", 2*time.Second, func() bool { return readKey(client) == nil })
	said = append(said, log.String())
	for _, s := range said {
		if strings.Contains(s, "s3cr3t") || strings.Contains(s, "hvs.stub") {
			t.Errorf("a secret is in: %s", s)
		}
	}
}

// TestStaleConnection: a connection that the other end gives up while a request
// is on its way costs no call, if the request may be sent twice.
func TestStaleConnection(t *testing.T) {
	type served struct{}
	var requests, rotations atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if strings.HasSuffix(r.URL.Path, "/rotate") {
			rotations.Add(1)
		}
		if r.Context().Value(served{}).(*atomic.Int32).Add(1) > 1 {
			panic(http.ErrAbortHandler) // ends the connection
		}
		io.WriteString(w, `{"data":{"plaintext":"AAAA"}}`)
	}))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, served{}, new(atomic.Int32))
	}
	server.Start()
	t.Cleanup(server.Close)
	client := ready(t, Config{Addresses: []string{server.URL}, Login: Login{TokenFile: secretFile(t, "token")}})
	const calls = 10
	for range calls {
		if _, err := client.Key("transit", "sts").Decrypt(t.Context(), "vault:v1:x", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := requests.Load(); n > 1+2*calls {
		t.Errorf("%d requests for %d calls", n, calls)
	}
	wantKind(t, client.Key("transit", "sts").Rotate(t.Context()), Unreachable)
	if n := rotations.Load(); n != 1 {
		t.Errorf("asked to rotate %d times", n)
	}
}

// TestNoStorm: what fails is not sent again by this package [F12].
func TestNoStorm(t *testing.T) {
	for name, fault := range map[string]vaulttest.Fault{
		"429": vaulttest.TooMany(time.Second), "500": vaulttest.Status(500), "sealed": vaulttest.Status(503),
		"reset": vaulttest.Reset(), "garbage": vaulttest.Garbage(), "denied": vaulttest.Status(403),
	} {
		t.Run(name, func(t *testing.T) {
			stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
			client := ready(t, rootConfig(t, stub))
			stub.Inject(vaulttest.Read, fault)
			const calls = 50
			for range calls {
				if err := readKey(client); err == nil {
					t.Fatal("no error")
				}
			}
			if n := stub.Count(vaulttest.Read); n > calls*11/10 {
				t.Errorf("%d requests for %d calls", n, calls)
			}
		})
	}
}

// TestHungNode: a call that gets no answer ends in time, and the next goes to
// another node [F05].
func TestHungNode(t *testing.T) {
	first, _, c := twoStubs(t)
	c.Timeout = 300 * time.Millisecond
	client := ready(t, c)
	first.Inject(vaulttest.AnyCall, vaulttest.Hang())
	began := time.Now()
	wantKind(t, readKey(client), Unreachable)
	if d := time.Since(began); d > time.Second {
		t.Errorf("after %s", d)
	}
	if err := readKey(client); err != nil {
		t.Error(err)
	}
}

// TestDroppedMidAnswer: an answer that ends early is none, and Vault is used again
// as soon as the network is well.
func TestDroppedMidAnswer(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	proxy := testserver.NewProxy(t, stub.Addr)
	c := rootConfig(t, stub)
	c.Addresses, c.Timeout = []string{proxy.Addr}, time.Second
	client := ready(t, c)
	for _, fault := range []func(){proxy.DropMidAnswer, proxy.Refuse, proxy.Blackhole} {
		fault()
		wantKind(t, readKey(client), Unreachable)
		proxy.Heal()
		eventually(t, "vault is used again", 2*time.Second, func() bool { return readKey(client) == nil })
	}
}

// TestCallersContext: who gives up gets his own reason.
func TestCallersContext(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	client := ready(t, rootConfig(t, stub))
	stub.Inject(vaulttest.Read, vaulttest.Hang())
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client has gone")
	go func() {
		stub.Await(t, vaulttest.Read, 1)
		cancel(why)
	}()
	_, err := client.Key("transit", "sts").Info(ctx)
	if !errors.Is(err, why) || kindOfError(err) != 0 {
		t.Errorf("got %v", err)
	}
}
