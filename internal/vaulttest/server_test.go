package vaulttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

func TestSeal(t *testing.T) {
	s := Start(t)
	s.Transit(t, "k", "ecdsa-p256")
	s.Seal(t)
	for _, path := range []string{"transit/keys/k", "auth/token/lookup-self"} {
		if status, answer := s.Try(t, "GET", path, nil); status != 503 || fmt.Sprint(answer["errors"]) != "[Vault is sealed]" {
			t.Errorf("%s of a sealed Vault: %d %v", path, status, answer)
		}
	}
	s.Unseal(t)
	s.Do(t, "POST", "transit/sign/k", map[string]any{"input": "aGVsbG8="})
}

func TestRestart(t *testing.T) {
	s := Start(t, WithDir(""))
	s.Transit(t, "k", "ecdsa-p256")
	before := s.Do(t, "GET", "transit/keys/k", nil)
	address := s.Addr
	s.Kill(t)
	if _, err := http.Get(s.Addr + "/v1/sys/health"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a killed Vault: %v", err)
	}
	for range 2 { // from killed, and from running
		s.Restart(t)
		if status, _ := s.Try(t, "GET", "transit/keys/k", nil); status != 503 {
			t.Errorf("a restarted Vault: %d, want 503", status)
		}
		s.Unseal(t)
		after := s.Do(t, "GET", "transit/keys/k", nil)
		if fmt.Sprint(before["data"]) != fmt.Sprint(after["data"]) || s.Addr != address {
			t.Errorf("the key was %v at %s and is %v at %s", before["data"], address, after["data"], s.Addr)
		}
	}
}

func TestPause(t *testing.T) {
	s := Start(t)
	s.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.Addr+"/v1/sys/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.http.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused Vault: %v", err)
	}
	s.Resume(t)
	s.Do(t, "GET", "sys/health", nil)
}

const signer = `
path "transit/sign/k" { capabilities = ["update"] }
path "transit/keys/k" { capabilities = ["read"] }`

func TestAppRole(t *testing.T) {
	s := Start(t)
	s.Transit(t, "k", "ecdsa-p256")
	s.Policy(t, "signer", signer)
	role, secret := s.AppRole(t, "signer")
	nobody := s.As("")
	login := nobody.Do(t, "POST", "auth/approle/login", map[string]any{"role_id": role, "secret_id": secret})
	c := s.As(text(t, login, "auth", "client_token"))
	c.Do(t, "POST", "transit/sign/k", map[string]any{"input": "aGVsbG8="})
	c.Do(t, "GET", "transit/keys/k", nil)
	if status, answer := c.Try(t, "POST", "transit/keys/k/rotate", nil); status != 403 || fmt.Sprint(answer["errors"]) != "[1 error occurred:\n\t* permission denied\n\n]" {
		t.Errorf("rotation without permission: %d %v", status, answer)
	}
	may := data(t, c.Do(t, "POST", "sys/capabilities-self", map[string]any{"paths": []string{"transit/sign/k", "transit/export/signing-key/k"}}))
	if fmt.Sprint(may["transit/sign/k"], may["transit/export/signing-key/k"]) != "[update] [deny]" {
		t.Errorf("capabilities: %v", may)
	}
	renewed := c.Do(t, "POST", "auth/token/renew-self", map[string]any{"increment": "10m"})["auth"].(map[string]any)
	if renewed["lease_duration"] != 600.0 || renewed["renewable"] != true {
		t.Errorf("renewed: %v", renewed)
	}
	for name, c := range map[string]struct {
		role, secret string
		status       int
	}{
		"role":   {"wrong", secret, 400},
		"secret": {role, "wrong", 500}, // so does 1.13.1, and later ones say 400
	} {
		if status, answer := nobody.Try(t, "POST", "auth/approle/login", map[string]any{"role_id": c.role, "secret_id": c.secret}); status != c.status {
			t.Errorf("wrong %s: %d %v, want %d", name, status, answer, c.status)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	s := Start(t)
	s.Policy(t, "signer", signer)
	c := s.As(s.Token(t, "signer", time.Second))
	c.Do(t, "GET", "auth/token/lookup-self", nil)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		status, answer := c.Try(t, "GET", "auth/token/lookup-self", nil)
		if status == 403 {
			if fmt.Sprint(answer["errors"]) != "[permission denied]" {
				t.Errorf("an expired token: %v", answer)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a token of one second still works: %d %v", status, answer)
		}
	}
}

func TestCertificateLogin(t *testing.T) {
	servers, clients, others := testserver.NewCA(t), testserver.NewCA(t), testserver.NewCA(t)
	s := Start(t, WithTLS(servers, clients))
	if !strings.HasPrefix(s.Addr, "https://") {
		t.Fatalf("the address is %s", s.Addr)
	}
	s.Transit(t, "k", "ecdsa-p256") // without a certificate
	s.Policy(t, "signer", signer)
	s.CertRole(t, clients, "signer")
	cert, key := clients.Issue(t, "sts")
	c := s.WithCertificate(t, cert, key)
	login := c.Do(t, "POST", "auth/cert/login", map[string]any{"name": "test"})
	token := text(t, login, "auth", "client_token")
	s.As(token).Do(t, "POST", "transit/sign/k", map[string]any{"input": "aGVsbG8="})
	c.As(token).Do(t, "POST", "auth/token/renew-self", nil)
	if status, answer := s.As(token).Try(t, "POST", "auth/token/renew-self", nil); status != 400 {
		t.Errorf("renewal without the certificate of the login: %d %v", status, answer)
	}
	otherCert, otherKey := others.Issue(t, "sts")
	for name, c := range map[string]*Client{"no certificate": s.As(""), "other authority": s.WithCertificate(t, otherCert, otherKey)} {
		if status, answer := c.Try(t, "POST", "auth/cert/login", map[string]any{"name": "test"}); status < 400 {
			t.Errorf("%s: %d %v", name, status, answer)
		} else {
			t.Logf("%s: %d %v", name, status, answer["errors"])
		}
	}
}

// TestOrphan kills a process that has started a server, which must end then,
// even if it is paused.
func TestOrphan(t *testing.T) {
	if mode := os.Getenv("VAULTTEST_PARENT"); mode != "" {
		s := Start(t)
		if mode == "paused" {
			s.Pause(t)
		}
		fmt.Printf("\npid %d\n", s.run.PID())
		select {}
	}
	for _, mode := range []string{"running", "paused"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestOrphan$")
			cmd.Env = append(os.Environ(), "VAULTTEST_PARENT="+mode)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pid int
			for lines := bufio.NewScanner(stdout); pid == 0 && lines.Scan(); {
				fmt.Sscanf(lines.Text(), "pid %d", &pid)
			}
			cmd.Process.Kill()
			cmd.Wait()
			if pid == 0 {
				t.Fatal("the parent did not start a server")
			}
			for deadline := time.Now().Add(patience); running(pid); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					syscall.Kill(pid, syscall.SIGKILL)
					t.Fatal("the server outlives its parent")
				}
			}
		})
	}
}

// running reports whether a process is there and has not ended.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") // ended, and nobody has asked how
}

func TestProxyInFrontOfVault(t *testing.T) {
	s := Start(t, WithDir(""))
	p := testserver.NewProxy(t, s.Addr)
	c := s.At(p.Addr)
	c.Do(t, "GET", "sys/health", nil)
	s.Restart(t)
	s.Unseal(t)
	c.Do(t, "GET", "auth/token/lookup-self", nil)
	if p.Accepted() != 2 {
		t.Errorf("%d connections, want one for each call", p.Accepted())
	}
}
