package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// startLimited starts a server as an operator sets it up, with more in its
// configuration, and with the client, audience and rule of a development server.
// It may be run by another command, which becomes stsd.
func startLimited(t *testing.T, more string, under ...string) *node {
	t.Helper()
	dir := t.TempDir()
	httpAddr, grpcAddr := testserver.FreeAddress(t), testserver.FreeAddress(t)
	writeSigningKey(t, dir)
	file := filepath.Join(dir, "stsd.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `issuer: http://%[1]s
http: {listen: "%[1]s"}
grpc: {listen: "%[2]s"}
storage: {bolt_file: sts.db}
audit: {file: audit.jsonl}
admin: {token_file: admin.token, socket: {path: admin.sock}}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
%[3]s
`, httpAddr, grpcAddr, more), 0o600); err != nil {
		t.Fatal(err)
	}
	token := adminToken(t, dir)
	n := startUnder(t, under, "serve", "--config", file)
	n.dir = dir
	n.env = map[string]string{
		"STS_ISSUER": "http://" + httpAddr, "STS_HTTP": "http://" + httpAddr, "STS_GRPC": grpcAddr, "STS_ADMIN_TOKEN": token,
		"STS_CLIENT_ID": "demo", "STS_AUDIENCE": "demo",
	}
	n.applyDemo(t)
	return n
}

// cpuTime is what a process has used of the processors, which does not depend on who
// else uses them.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("what the server costs is measured on Linux: %v", err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // from the third one on [proc(5)]
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// TestCostOfRefusal measures what the server pays for a request that it refuses since
// it has too much to do, beside what it pays for a token [F43]: if what is offered is
// three times what fits, and nothing but the processors limits it, there are tokens as
// long as refusing is cheap.
func TestCostOfRefusal(t *testing.T) {
	n := startLimited(t, "limits: {max_requests: 1}")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	form := credentialsGrant(n).Encode()
	var good, refused atomic.Int64
	ask := func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.env["STS_HTTP"]+"/oauth2/token", strings.NewReader(form))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"])
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		switch res.StatusCode {
		case http.StatusOK:
			good.Add(1)
		case http.StatusServiceUnavailable:
			refused.Add(1)
		default:
			t.Errorf("status %d", res.StatusCode)
		}
	}
	// run has so many ask at once, until the server has used so much.
	run := func(callers int) (tokens, refusals int64, used time.Duration) {
		good.Store(0)
		refused.Store(0)
		before := cpuTime(t, n.cmd.Process.Pid)
		stop := time.Now().Add(2 * time.Second)
		var asking sync.WaitGroup
		for range callers {
			asking.Go(func() {
				for time.Now().Before(stop) && !t.Failed() {
					ask()
				}
			})
		}
		asking.Wait()
		return good.Load(), refused.Load(), cpuTime(t, n.cmd.Process.Pid) - before
	}
	ask() // caches
	tokens, _, used := run(1)
	cost := float64(used) / float64(tokens)
	crowded, refusals, used := run(32)
	if tokens == 0 || refusals < 100 {
		t.Fatalf("%d tokens, then %d and %d refusals", tokens, crowded, refusals)
	}
	ratio := (float64(used) - float64(crowded)*cost) / float64(refusals) / cost
	t.Logf("a token costs %s of a processor, a refusal %.2f of that: at 3 times the load that fits, goodput is %.0f %%",
		time.Duration(cost), ratio, 100*(1-3*ratio)/(1-ratio))
	if ratio > 0.25 {
		t.Errorf("a refusal costs %.2f of a token", ratio)
	}
}

// crowd opens connections that ask for nothing. The kernel takes them.
func crowd(t *testing.T, addr string, size int) (leave func()) {
	t.Helper()
	var all []net.Conn
	leave = sync.OnceFunc(func() {
		for _, c := range all {
			c.Close()
		}
	})
	t.Cleanup(leave)
	for range size {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return leave
}

// descriptors returns how many files a process has open.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// asker returns what asks for a token over a connection that it keeps.
func (n *node) asker(t *testing.T) func() (int, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 10 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return func() (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.env["STS_HTTP"]+"/oauth2/token", strings.NewReader(credentialsGrant(n).Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"])
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
}

// TestConnectionsLeaveRoom has more connect than the process may open files [F40]: who
// is connected is served, and so are the other listener and the admin socket, which
// have places that no crowd takes.
func TestConnectionsLeaveRoom(t *testing.T) {
	prlimit(t)
	n := startLimited(t, "", "prlimit", "--nofile=256:256", "--")
	token := n.asker(t)
	if status, err := token(); status != http.StatusOK {
		t.Fatal(status, err)
	}
	crowd(t, strings.TrimPrefix(n.env["STS_HTTP"], "http://"), 1000)
	n.full(t, 100)
	if status, err := token(); status != http.StatusOK {
		t.Errorf("a client that is connected: %d %v", status, err)
	}
	if _, stderr, code := n.stsctl(t, "", "keys", "rotate", "default"); code != 0 {
		t.Errorf("over gRPC: %s", stderr)
	}
	if _, stderr, code := n.stsctl(t, "", "get", "all", "--addr", "unix://"+filepath.Join(n.dir, "admin.sock")); code != 0 {
		t.Errorf("over the admin socket: %s", stderr)
	}
	if open := descriptors(t, n.cmd.Process.Pid); open > 256-32 {
		t.Errorf("%d descriptors of 256 are open", open)
	}
}

func prlimit(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("there is no prlimit: ", err)
	}
	if out, err := exec.Command("prlimit", args...).CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v %s", err, out)
	}
}

// full waits until the server has so many files open.
func (n *node) full(t *testing.T, files int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); descriptors(t, n.cmd.Process.Pid) < files; {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open", descriptors(t, n.cmd.Process.Pid))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestFileDescriptors takes away what a process may open while it runs [F40]: who is
// connected is served, connections that cannot be accepted wait without the server
// being busy about it, and all is well when there is room again.
func TestFileDescriptors(t *testing.T) {
	prlimit(t)
	n := startLimited(t, "")
	pid := n.cmd.Process.Pid
	token := n.asker(t)
	if status, err := token(); status != http.StatusOK {
		t.Fatal(status, err) // and keeps its connection
	}
	files := descriptors(t, pid) + 20
	prlimit(t, "--pid", strconv.Itoa(pid), fmt.Sprintf("--nofile=%d:", files))
	leave := crowd(t, strings.TrimPrefix(n.env["STS_HTTP"], "http://"), 300)
	n.full(t, files)
	begin, used := time.Now(), cpuTime(t, pid)
	for time.Since(begin) < time.Second {
		if status, err := token(); status != http.StatusOK {
			t.Errorf("a client that is connected: %d %v", status, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	busy := float64(cpuTime(t, pid)-used) / float64(time.Since(begin))
	if busy > 0.5 {
		t.Errorf("%.0f %% of a processor while nothing can be accepted", 100*busy)
	}
	leave()
	begin = time.Now()
	if status, err := n.asker(t)(); status != http.StatusOK {
		t.Errorf("a new client afterwards: %d %v", status, err)
	}
	took := time.Since(begin)
	t.Logf("busy %.0f %% meanwhile, well again after %s", 100*busy, took)
	if took > 5*time.Second {
		t.Errorf("well again after %s", took)
	}
}
