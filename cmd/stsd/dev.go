package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// devOptions are the flags of a development server.
type devOptions struct {
	enabled          bool
	data, http, grpc string
}

const demo = "demo" // name of the demo client, audience and rule

// serveDev runs a development server that sets itself up in a directory.
func serveDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) error {
	for flag, addr := range map[string]string{"--http": o.http, "--grpc": o.grpc} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil || !isLoopback(host) {
			return fmt.Errorf("%s %s: a development server listens on a loopback address only, such as 127.0.0.1:8080; use --config for production", flag, addr)
		}
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	c := devConfig(dir, o)
	ls, err := listen(c)
	if err != nil {
		return err
	}
	c.Issuer, c.Dpop.GrpcUrl = "http://"+ls.http.Addr().String(), "http://"+ls.grpc.Addr().String()
	env := devEnv{file: filepath.Join(dir, "dev.env"), issuer: c.Issuer, grpc: ls.grpc.Addr().String(), socket: c.Admin.Socket.Path}
	if env.adminSecret, err = devAdminToken(c.Admin.TokenFile); err != nil {
		return errors.Join(err, ls.close())
	}
	n, err := open(ctx, c, true, stderr)
	if err != nil {
		return errors.Join(err, ls.close())
	}
	defer n.close()
	if err := ls.listenAdmin(c.Admin.Socket); err != nil {
		return errors.Join(err, ls.close())
	}
	if err := env.prepare(ctx, n.service); err != nil {
		return errors.Join(err, ls.close())
	}
	env.greet(stdout)
	return n.serve(ctx, ls)
}

// devAdminToken returns the secret in the file of the admin token, which it makes
// if it is missing.
func devAdminToken(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(data)), server.CheckAdminToken(file)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the admin token: %w", err)
	}
	secret, _ := sts.NewSecret()
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the admin token: %w", err)
	}
	return secret, nil
}

func devConfig(dir string, o devOptions) *stsv1.ServerConfig {
	c := &stsv1.ServerConfig{
		Http:    &stsv1.Listener{Listen: o.http},
		Grpc:    &stsv1.Listener{Listen: o.grpc},
		Storage: &stsv1.StorageConfig{BoltFile: filepath.Join(dir, "sts.db"), ReplayFile: filepath.Join(dir, "sts.db.replay")},
		Keys: &stsv1.KeysConfig{Sets: []*stsv1.KeySetConfig{{
			Name: sts.DefaultKeySet, Algorithm: "ES256",
			Provider: &stsv1.KeySetConfig_Local{Local: &stsv1.LocalKeyConfig{KeyFile: filepath.Join(dir, "signing.key")}},
		}}},
		Rotation: &stsv1.RotationConfig{},
		// Who develops wants to see each refusal.
		Audit: &stsv1.AuditConfig{
			File:      filepath.Join(dir, "audit.jsonl"),
			Strangers: &stsv1.AuditStrangersConfig{PerNetwork: 1_000_000, Total: 1_000_000},
		},
		Log:   &stsv1.LogConfig{Level: "info"},
		Admin: &stsv1.AdminConfig{Socket: &stsv1.AdminSocketConfig{Path: filepath.Join(dir, adminSocketName)}, TokenFile: filepath.Join(dir, "admin.token")},
	}
	configCheck{}.revisions(c.Storage) // for the defaults
	if server.CheckSocketPath(c.Admin.Socket.Path) != nil {
		c.Admin.Socket.Path = "" // too deep a directory; there is the token
	}
	check := configCheck{dir: dir, report: func(path, message string) { panic(path + " " + message) }}
	check.limits(c)
	check.dpop(c)
	check.rotation(c.Rotation)
	check.auditDefaults(c.Audit)
	return c
}

// devEnv is the file that tells other programs how to reach the server.
type devEnv struct {
	file, issuer, grpc        string
	socket                    string // of the admin interface
	clientSecret, adminSecret string // clientSecret is empty if there is no demo client
	complete                  bool   // the demo resources are there
}

// prepare makes the demo resources in a store that never had any resource, sees
// to it that the secrets in the file work, and writes the file. What a user
// changed or deleted stays so.
func (e *devEnv) prepare(ctx context.Context, s *sts.Service) error {
	old, err := readEnv(e.file)
	if err != nil {
		return err
	}
	e.clientSecret = old["STS_CLIENT_SECRET"]
	change := e.change(s)
	// The file comes first: a secret that is in force but written nowhere is lost.
	if err := e.write(); err != nil {
		return err
	}
	if _, err := s.Apply(ctx, change); err != nil {
		return fmt.Errorf("making the demo resources: %w", err)
	}
	e.complete = true
	for _, kind := range []sts.Kind{sts.KindAudience, sts.KindClient, sts.KindRule} {
		if _, _, err := s.Resource(sts.Ref{Kind: kind, Name: demo}); err != nil {
			e.complete = false
		}
	}
	return nil
}

// change makes what a new store needs, and a new secret for the demo client if
// it has another one than the file.
func (e *devEnv) change(s *sts.Service) sts.Change {
	var change sts.Change
	client := &sts.Client{Name: demo, Description: "A client to try things with, made by the development server."}
	if _, _, revision := s.Resources("", sts.Ref{}, 1); revision == 0 {
		change.Put = demoTarget()
	} else {
		existing, _, err := s.Resource(sts.Ref{Kind: sts.KindClient, Name: demo})
		if err != nil {
			e.clientSecret = ""
			return change
		}
		if existing.Client.Proves(e.clientSecret) {
			return change
		}
		client = existing.Client
	}
	secret, hash := sts.NewSecret()
	e.clientSecret = secret
	replaced := *client
	replaced.Secrets = []sts.ClientSecret{{Hash: hash}}
	change.Put = append(change.Put, sts.Resource{Client: &replaced})
	return change
}

// demoTarget is what the demo client gets tokens for, and the rule for it.
func demoTarget() []sts.Resource {
	return []sts.Resource{
		{Audience: &sts.Audience{
			Name: demo, Description: "A service to get tokens for, made by the development server.",
			Scopes: []string{"demo.read", "demo.write"},
		}},
		{Rule: &policy.Rule{
			Name: demo, Description: "The demo client may do everything at the demo audience.",
			Requester: policy.Requester{Clients: []string{demo}},
			Allow:     policy.Allow{Audiences: []string{demo}, Scopes: []string{"demo.read", "demo.write"}},
		}},
	}
}

func (e *devEnv) write() error {
	text := fmt.Sprintf("STS_ISSUER=%s\nSTS_HTTP=%s\nSTS_GRPC=%s\nSTS_ADMIN_TOKEN=%s\n", e.issuer, e.issuer, e.grpc, e.adminSecret)
	if e.socket != "" {
		text += fmt.Sprintf("STS_ADMIN_SOCKET=%s\n", quote(e.socket))
	}
	if e.clientSecret != "" {
		text += fmt.Sprintf("STS_CLIENT_ID=%s\nSTS_CLIENT_SECRET=%s\nSTS_AUDIENCE=%s\n", demo, e.clientSecret, demo)
	}
	tmp := e.file + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the environment file: %w", err)
	}
	if err := os.Rename(tmp, e.file); err != nil {
		return fmt.Errorf("writing the environment file: %w", err)
	}
	return nil
}

// readEnv reads NAME=value lines; a file that is missing is empty.
func readEnv(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the environment file: %w", err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value // none that is read here needs quotes
	}
	return env, nil
}

// greet prints what a newcomer does next.
func (e *devEnv) greet(w io.Writer) {
	fmt.Fprintf(w, `
Development server for %[1]s
  HTTP  %[1]s
  gRPC  %[2]s
  environment  %[3]s
`, e.issuer, e.grpc, quote(e.file))
	if !e.complete {
		fmt.Fprintf(w, `
The demo client, its audience or its rule was deleted; this shows what is there:

  %[1]s get all --env-file %[2]s

`, quote(stsctl()), quote(e.file))
		return
	}
	fmt.Fprintf(w, `
Paste into another terminal:

  # take over the address and the demo client's secret
  set -a; . %[1]s; set +a

  # get a token
  ANSWER=$(curl -sS -u "$STS_CLIENT_ID:$STS_CLIENT_SECRET" -d grant_type=client_credentials \
       -d audience="$STS_AUDIENCE" "$STS_HTTP/oauth2/token"); echo "$ANSWER"
  TOKEN=$(echo "$ANSWER" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

  # exchange it for one that can only read
  curl -sS -u "$STS_CLIENT_ID:$STS_CLIENT_SECRET" \
       -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \
       -d subject_token="$TOKEN" -d subject_token_type=urn:ietf:params:oauth:token-type:access_token \
       -d audience="$STS_AUDIENCE" -d scope=demo.read "$STS_HTTP/oauth2/token"; echo

  # look into it, and verify it against the issuer
  %[2]s inspect --verify "$TOKEN"

`, quote(e.file), quote(stsctl()))
}

// stsctl is the command beside this one, which is where `make build` puts it.
func stsctl() string {
	self, err := os.Executable()
	if err != nil {
		return "stsctl"
	}
	return filepath.Join(filepath.Dir(self), "stsctl")
}

// quote quotes a path for a shell if it needs it.
func quote(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+=:@%", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
