// Package e2e runs the real binaries against clients and issuers of other
// projects.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is where TestMain builds stsd and stsctl.
var bin string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "sts-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	if testCA, err = newAuthority(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// For clients that know no other roots than the system's.
	caFile := filepath.Join(bin, "ca.pem")
	if err := os.WriteFile(caFile, testCA.pem, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SSL_CERT_FILE", caFile)
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/...")
	build.Dir = ".."
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binaries:", err)
		return 1
	}
	return m.Run()
}

// node is a running development server.
type node struct {
	env    map[string]string // of dev.env
	dir    string
	stdout *lockedBuffer
	cmd    *exec.Cmd
	log    *lockedBuffer
	done   chan error
}

// startDev starts a development server on free ports and waits until it is
// ready. It is stopped with the test.
func startDev(t *testing.T, dir string, more ...string) *node {
	t.Helper()
	args := append([]string{"serve", "--dev", "--data", dir, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"}, more...)
	n := start(t, args...)
	n.dir = dir
	n.env = readEnvFile(t, filepath.Join(dir, "dev.env"))
	return n
}

// start runs stsd and returns when it serves.
func start(t *testing.T, args ...string) *node {
	t.Helper()
	return startUnder(t, nil, args...)
}

// startUnder runs stsd by another command, if there is one, which becomes stsd.
func startUnder(t *testing.T, under []string, args ...string) *node {
	t.Helper()
	args = append(append(slices.Clone(under), filepath.Join(bin, "stsd")), args...)
	n := &node{cmd: exec.Command(args[0], args[1:]...), log: &lockedBuffer{}, done: make(chan error, 1)}
	n.stdout = &lockedBuffer{}
	n.cmd.Stdout = n.stdout
	stderr, err := n.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		once := sync.OnceFunc(func() { close(ready) })
		for lines.Scan() {
			n.log.Write(append(lines.Bytes(), '\n'))
			if strings.Contains(lines.Text(), `"msg":"serving"`) {
				once()
			}
		}
		n.done <- n.cmd.Wait()
	}()
	t.Cleanup(func() { n.stop(t) })
	select {
	case <-ready:
	case err := <-n.done:
		n.done <- err
		t.Fatalf("%s ended: %v\n%s", strings.Join(args, " "), err, n.log)
	case <-time.After(20 * time.Second):
		t.Fatalf("stsd is not ready after 20 s:\n%s", n.log)
	}
	return n
}

// writeSigningKey makes the file that local keys are encrypted by.
func writeSigningKey(t *testing.T, dir string) {
	t.Helper()
	var key [32]byte
	rand.Read(key[:])
	if err := os.WriteFile(filepath.Join(dir, "signing.key"), []byte(base64.StdEncoding.EncodeToString(key[:])+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// applyDemo makes the client, audience and rule of a development server.
func (n *node) applyDemo(t *testing.T) {
	t.Helper()
	out, _, _ := n.stsctl(t, "", "secret", "new", "-o", "json")
	var made struct{ Secret, Hash string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.env["STS_CLIENT_SECRET"] = made.Secret
	n.apply(t, fmt.Sprintf(`
kind: Audience
name: demo
scopes: [demo.read, demo.write]
---
kind: Client
name: demo
audiences: [demo]
secrets: [{hash: "%s"}]
---
kind: Rule
name: demo
requester: {clients: [demo]}
allow: {audiences: [demo], scopes: [demo.read, demo.write]}
`, made.Hash))
}

// printed waits until the server has printed a text, and returns what follows it.
func (n *node) printed(t *testing.T, marker string) string {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, after, ok := strings.Cut(n.stdout.String(), marker); ok && strings.HasSuffix(after, "\n") {
			return after
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server did not print %q:\n%s", marker, n.stdout)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// adminToken makes the file admin.token in a directory and returns what is in it.
func adminToken(t *testing.T, dir string) string {
	t.Helper()
	var b [32]byte
	rand.Read(b[:])
	token := "stss_" + base64.RawURLEncoding.EncodeToString(b[:])
	if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return token
}

// stop ends the server as an operator does, and fails the test if it does not
// end well.
func (n *node) stop(t *testing.T) {
	t.Helper()
	if n.cmd.ProcessState != nil {
		return
	}
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-n.done:
		if err != nil {
			t.Errorf("stsd ended with %v:\n%s", err, n.log)
		}
	case <-time.After(15 * time.Second):
		n.cmd.Process.Kill()
		t.Errorf("stsd did not stop within 15 s of SIGTERM:\n%s", n.log)
	}
}

// kill ends the server as a power cut would.
func (n *node) kill(t *testing.T) {
	t.Helper()
	n.cmd.Process.Kill()
	<-n.done
}

// audit returns the token decisions of the audit log.
func (n *node) audit(t *testing.T) []map[string]any {
	t.Helper()
	return n.recorded(t, "token")
}

// recorded returns the records of one event.
func (n *node) recorded(t *testing.T, event string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "audit.jsonl"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range bytes.Lines(data) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("audit record %q: %v", line, err)
		}
		if r["event"] == event {
			out = append(out, r)
		}
	}
	return out
}

func readEnvFile(t *testing.T, file string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			t.Fatalf("%s: line %q is not NAME=value", file, line)
		}
		env[name] = value
	}
	return env
}

// environ is the process environment with that of the server.
func (n *node) environ() []string {
	env := os.Environ()
	for name, value := range n.env {
		env = append(env, name+"="+value)
	}
	return env
}

// stsctl runs stsctl against the server and returns its output.
func (n *node) stsctl(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, n.environ(), stdin, filepath.Join(bin, "stsctl"), args...)
}

// apply applies resources given as YAML.
func (n *node) apply(t *testing.T, yaml string) {
	t.Helper()
	if _, stderr, code := n.stsctl(t, yaml, "apply", "-f", "-"); code != 0 {
		t.Fatalf("apply: %s", stderr)
	}
}

func command(t *testing.T, env []string, stdin, name string, args ...string) (string, string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("%s: %v", name, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// reply is an answer of the token endpoint.
type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (r reply) str(name string) string { s, _ := r.body[name].(string); return s }

// token posts a form to the token endpoint as the demo client.
func (n *node) token(t *testing.T, form url.Values) reply {
	t.Helper()
	return n.post(t, form, func(r *http.Request) {
		r.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"])
	})
}

// post posts a form to the token endpoint.
func (n *node) post(t *testing.T, form url.Values, edit func(*http.Request)) reply {
	t.Helper()
	return n.postTo(t, n.env["STS_HTTP"]+"/oauth2/token", form, edit)
}

func (n *node) postTo(t *testing.T, endpoint string, form url.Values, edit func(*http.Request)) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(req)
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) reply {
	t.Helper()
	return doBy(t, http.DefaultClient, req)
}

func doBy(t *testing.T, client *http.Client, req *http.Request) reply {
	t.Helper()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(raw)}
	if err := json.Unmarshal(raw, &r.body); err != nil && len(raw) > 0 {
		t.Fatalf("%s %s: status %d, body %q is not JSON: %v", req.Method, req.URL, res.StatusCode, raw, err)
	}
	return r
}

// lockedBuffer is a buffer that several goroutines write and read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
