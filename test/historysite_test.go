package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/test/check"
)

// site is where a server runs, and runs again after it was killed.
type site struct {
	*node
	number int
	config string // file
	url    string
	admin  string          // token
	under  []string        // what runs stsd
	logs   strings.Builder // of the runs that have ended
	client *http.Client
}

// add starts a server whose data is in a directory, besides what it keeps in its
// storage. All but the issuer and the storage is its own.
func (h *history) add(data, storage, keyFile string, under ...string) *site {
	h.t.Helper()
	dir := h.t.TempDir()
	s := &site{number: len(h.sites), config: filepath.Join(dir, "stsd.yaml"), under: under}
	httpAddr, grpcAddr := testserver.FreeAddress(h.t), testserver.FreeAddress(h.t)
	s.url = "http://" + httpAddr
	issuer := s.url
	if len(h.sites) > 0 {
		issuer = h.sites[0].url
	}
	s.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	text := fmt.Sprintf(`issuer: %s
http: {listen: "%s"}
grpc: {listen: "%s"}
storage: %s
audit: {file: %s, durability: %s}
admin: {token_file: admin.token, socket: {disabled: true}}
keys: {sets: [{name: default, local: {key_file: %s}}]}
%s`, issuer, httpAddr, grpcAddr, storage, filepath.Join(data, "audit.jsonl"), h.durability, keyFile, h.rotation)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	s.admin = adminToken(h.t, dir)
	h.secrets = append(h.secrets, check.Text{Name: "an admin token", Text: s.admin})
	h.begin(s)
	s.node.dir = data
	s.env = map[string]string{"STS_ISSUER": issuer, "STS_HTTP": s.url, "STS_GRPC": grpcAddr, "STS_ADMIN_TOKEN": s.admin}
	h.sites = append(h.sites, s)
	return s
}

// begin starts the server of a site.
func (h *history) begin(s *site) {
	h.t.Helper()
	old := s.node
	s.node = startUnder(h.t, s.under, "serve", "--config", s.config)
	if old != nil {
		s.logs.WriteString(old.log.String())
		s.node.dir, s.node.env = old.dir, old.env
	}
}

// kill kills a server at once, and starts it again when it was dead for a time.
func (h *history) kill(s *site, dead time.Duration) {
	h.t.Helper()
	up := h.log.Down(s.number)
	s.kill(h.t)
	time.Sleep(dead)
	h.begin(s)
	up()
}

// await waits until a server knows the clients and issues.
func (h *history) await(s *site) {
	h.t.Helper()
	c := &loadClient{h: h, number: -1, rnd: rand.New(rand.NewPCG(h.seed, 1<<32))}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		call, _ := c.ask(s, "/oauth2/token", credentialsForm(), c.secret)
		if call.Status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("server %d does not issue after 30 s: %d %s\n%s", s.number, call.Status, call.Problem, s.log)
		}
	}
}

// auditLog returns the audit log of a site, with the files that were rotated, and
// the arguments that name them.
func (s *site) auditLog(t *testing.T) (text string, files []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "audit*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text += readFile(t, name)
	}
	return text, []string{filepath.Join(s.dir, "audit.jsonl")}
}

// usage returns what a server uses.
func (h *history) usage(s *site) map[string]float64 {
	h.t.Helper()
	used := map[string]float64{}
	for line := range strings.Lines(getRaw(h.t, s.url+"/metrics")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, counts := check.Slack[name]; counts {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				h.t.Fatalf("metric %s: %v", line, err)
			}
			used[name] = n
		}
	}
	return used
}

// settled waits until a server uses what it used before, a minute at most, and
// returns what it used.
func (h *history) settled(s *site) check.Usage {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		u := check.Usage{Node: s.number, Before: h.before[s.number], After: h.usage(s)}
		if len(u.Grown()) == 0 || time.Now().After(deadline) {
			return u
		}
	}
}

// pause stops a server for a time without ending it.
func (h *history) pause(s *site, d time.Duration) {
	h.t.Helper()
	up := h.log.Down(s.number)
	defer up()
	p, err := testserver.Pause(s.cmd.Process)
	if err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(d)
	if err := p.Resume(); err != nil {
		h.t.Fatal(err)
	}
}
