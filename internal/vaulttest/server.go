// Package vaulttest gives tests a HashiCorp Vault: a real one in a process of
// its own ([Start]), and a fake that shows what a real one cannot be made to show
// ([NewStub]).
//
// Everything listens on 127.0.0.1 and ends with the test that started it.
package vaulttest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// patience is how long a step of a server may take before the test fails.
const patience = testserver.Patience

// Server is a running Vault. The client in it has the root token. What controls
// the process, from Kill to Resume, belongs to one goroutine.
type Server struct {
	*Client          // acts as root
	Addr      string // http://127.0.0.1:port; a restart keeps it
	RootToken string
	UnsealKey string

	binary string
	dir    string // empty: in memory
	args   []string
	run    *testserver.Process // nil: not running
	log    []byte              // of the runs that have ended
}

// An Option says how a server is to run.
type Option func(testing.TB, *Server)

// WithDir keeps the data in a directory, so that it survives a restart; a
// temporary one if dir is empty. Without it everything is in memory.
func WithDir(dir string) Option {
	return func(t testing.TB, s *Server) {
		if s.dir = dir; dir == "" {
			s.dir = t.TempDir()
		}
	}
}

// WithTLS serves HTTPS with a certificate of server for 127.0.0.1 and
// localhost. If clients is not nil, callers are asked for a certificate of it,
// which the auth method cert needs; they may have none.
func WithTLS(server, clients *testserver.CA) Option {
	return func(t testing.TB, s *Server) {
		cert, key := server.Issue(t, "vault")
		s.args = append(s.args, "-tls-cert", cert, "-tls-key", key)
		if clients != nil {
			s.args = append(s.args, "-tls-client-ca", clients.File)
		}
		s.Client.trust(server)
	}
}

// Start runs a Vault that is initialized and open, and stops it with the test.
// The first call on a machine builds it, which takes minutes.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	path, err := testserver.Binary("vaultserver")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Client: newClient(), binary: path}
	for _, o := range options {
		o(t, s)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() && len(s.log) > 0 {
			t.Logf("the Vault server said:\n%s", s.log)
		}
	})
	ready := s.start(t, "127.0.0.1:0")
	if ready.RootToken == "" {
		t.Fatalf("%s already has the data of another Vault", s.dir)
	}
	s.Addr, s.RootToken, s.UnsealKey = ready.Address, ready.RootToken, ready.UnsealKey
	s.Client.base, s.Client.token = s.Addr, s.RootToken
	return s
}

// Kill ends the server at once, as SIGKILL does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if s.run == nil {
		t.Fatal("the Vault server does not run")
	}
	s.stop()
}

// Restart ends the server if it runs, and starts it again on its address and
// data: it comes up sealed.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.dir == "" {
		t.Fatal("a Vault in memory cannot be restarted: start it WithDir")
	}
	s.stop()
	_, address, _ := strings.Cut(s.Addr, "://")
	s.start(t, address)
}

// Seal makes the server refuse everything until it is unsealed.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	s.Do(t, http.MethodPut, "sys/seal", nil)
}

// Unseal opens the server with its key, and returns when it serves.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	s.Do(t, http.MethodPut, "sys/unseal", map[string]any{"key": s.UnsealKey})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, answer := s.Try(t, http.MethodGet, "sys/health", nil)
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Vault server does not serve after it was unsealed: %d %v", status, answer)
		}
	}
}

// ready is the line that the server prints.
type ready struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
}

func (s *Server) start(t testing.TB, address string) ready {
	t.Helper()
	args := append([]string{"-listen", address}, s.args...)
	if s.dir != "" {
		args = append(args, "-dir", s.dir)
	}
	s.run = testserver.Run(t, s.binary, args...)
	var r ready
	if err := json.Unmarshal([]byte(s.run.Ready), &r); err != nil {
		t.Fatalf("the Vault server printed %q: %v", s.run.Ready, err)
	}
	return r
}

// stop kills the process, if there is one, and waits for its end.
func (s *Server) stop() {
	if s.run == nil {
		return
	}
	s.log = append(s.log, s.run.Kill()...)
	s.run = nil
}

// Pause stops the process without ending it: connections stay, new ones are
// even accepted, and nobody answers.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	if s.run == nil {
		t.Fatal("the Vault server does not run")
	}
	s.run.Pause(t)
}

// Resume lets a paused process go on.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	if s.run == nil {
		t.Fatal("the Vault server does not run")
	}
	s.run.Resume(t)
}
