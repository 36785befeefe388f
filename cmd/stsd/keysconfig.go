package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/keys/vault"
	"github.com/workload-sts/sts/sts"
)

// keys checks what signs tokens.
func (k configCheck) keys(c *stsv1.KeysConfig) {
	if len(c.Sets) == 0 {
		k.report("keys.sets", "is missing; name at least one key set, such as {name: default, local: {key_file: signing.key}}")
		return
	}
	names, places := map[string]string{}, map[string]string{}
	vaultFor := "" // the first set that needs it
	for i, s := range c.Sets {
		path := fmt.Sprintf("keys.sets[%d]", i)
		k.keySet(path, s, places)
		if other, taken := names[s.Name]; taken && s.Name != "" {
			k.report(path+".name", "is the name of "+other+" too; give each set a name of its own")
		}
		names[s.Name] = path
		if vaultFor == "" && s.GetLocal() == nil && s.Provider != nil {
			vaultFor = path
		}
	}
	if _, ok := names[sts.DefaultKeySet]; !ok {
		k.report("keys.sets", "has no set named "+sts.DefaultKeySet+", which signs for Audiences that name none")
	}
	switch {
	case c.Vault != nil:
		k.vault(c.Vault)
	case vaultFor != "":
		k.report("keys.vault", "is missing; "+vaultFor+" needs it: say how Vault is reached, by addresses and login")
	}
}

// keySet checks one set; places are the keys in Vault that sets before it have.
func (k configCheck) keySet(path string, s *stsv1.KeySetConfig, places map[string]string) {
	const most = 64
	switch {
	case s.Name == "":
		k.report(path+".name", "is missing")
	case len(s.Name) > most || strings.ContainsFunc(s.Name, notInName):
		k.report(path+".name", fmt.Sprintf("must be 1 to %d characters out of letters, digits and -._", most))
	}
	k.oneOf(path+".algorithm", &s.Algorithm, "ES256", "ES384", "EdDSA", "RS256", "PS256")
	switch p := s.Provider.(type) {
	case *stsv1.KeySetConfig_Local:
		p.Local.KeyFile = k.keyFile(path+".local.key_file", p.Local.KeyFile)
	case *stsv1.KeySetConfig_Vault:
		k.vaultKey(path+".vault", p.Vault)
		place := p.Vault.Mount + "/" + p.Vault.Key
		if other, taken := places[place]; taken {
			k.report(path+".vault.key", "is the key of "+other+" too; give each set a key of its own")
		}
		places[place] = path
	case *stsv1.KeySetConfig_VaultWrapped:
		k.vaultKey(path+".vault_wrapped", p.VaultWrapped)
	default:
		k.report(path, "needs one of vault, local and vault_wrapped, which says where its private keys are")
	}
}

func notInName(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._", r)
}

func (k configCheck) vaultKey(path string, c *stsv1.VaultKeyConfig) {
	if c.Mount == "" {
		c.Mount = "transit"
	}
	if c.Key == "" {
		k.report(path+".key", "is missing")
		return
	}
	if err := vault.CheckKey(c.Mount, c.Key); err != nil {
		k.report(path, err.Error())
	}
}

// vault checks how Vault is reached. What is found here has a place in the file;
// the rest is for the package that reaches it to say.
func (k configCheck) vault(c *stsv1.VaultConfig) {
	const path = "keys.vault"
	found := false
	in := configCheck{dir: k.dir, report: func(p, message string) { found = true; k.report(p, message) }}
	if len(c.Addresses) == 0 {
		in.report(path+".addresses", "is missing; name at least one, such as https://vault.internal:8200")
	}
	for i, a := range c.Addresses {
		in.vaultAddress(fmt.Sprintf("%s.addresses[%d]", path, i), a)
	}
	if c.CaFile != "" {
		c.CaFile = in.existingFile(path+".ca_file", c.CaFile)
	}
	c.CertFile, c.KeyFile = in.pair(path, c.CertFile, c.KeyFile)
	in.duration(path+".timeout", &c.Timeout, 2*time.Second, 10*time.Second)
	if c.Login == nil {
		in.report(path+".login", "is missing; give one of token_file, app_role, kubernetes and certificate")
	} else {
		in.vaultLogin(path+".login", c)
	}
	in.batch(path, c)
	if found {
		return
	}
	if err := vaultConfig(c).Check(); err != nil {
		for line := range strings.Lines(err.Error()) {
			k.report(path, strings.TrimSpace(line))
		}
	}
}

func (k configCheck) vaultAddress(path, a string) {
	u, err := url.Parse(a)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		k.report(path, "must be a URL such as https://vault.internal:8200")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		k.report(path, "must be https; http is for loopback addresses only")
	case u.Scheme != "https" && u.Scheme != "http":
		k.report(path, "must be an https URL")
	}
}

func (k configCheck) vaultLogin(path string, c *stsv1.VaultConfig) {
	switch m := c.Login.Method.(type) {
	case *stsv1.VaultLoginConfig_TokenFile:
		m.TokenFile = k.existingFile(path+".token_file", m.TokenFile)
	case *stsv1.VaultLoginConfig_AppRole:
		if m.AppRole.RoleId == "" {
			k.report(path+".app_role.role_id", "is missing")
		}
		m.AppRole.SecretIdFile = k.existingFile(path+".app_role.secret_id_file", m.AppRole.SecretIdFile)
	case *stsv1.VaultLoginConfig_Kubernetes:
		if m.Kubernetes.Role == "" {
			k.report(path+".kubernetes.role", "is missing")
		}
		if m.Kubernetes.TokenFile == "" {
			m.Kubernetes.TokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
		}
		m.Kubernetes.TokenFile = k.existingFile(path+".kubernetes.token_file", m.Kubernetes.TokenFile)
	case *stsv1.VaultLoginConfig_Certificate:
		if c.CertFile == "" && c.KeyFile == "" {
			k.report(path+".certificate", "needs keys.vault.cert_file and key_file, which are the proof")
		}
	default:
		k.report(path, "needs one of token_file, app_role, kubernetes and certificate")
	}
}

func (k configCheck) batch(path string, c *stsv1.VaultConfig) {
	c.Batch = orEmpty(c.Batch)
	k.number(path+".batch.size", &c.Batch.Size, 64, 1000)
	k.number(path+".batch.calls", &c.Batch.Calls, 8, 64)
	k.number(path+".batch.queue", &c.Batch.Queue, 1024, 100_000)
	k.number(path+".verify_one_in", &c.VerifyOneIn, 1, 1_000_000)
	k.duration(path+".batch.delay", &c.Batch.Delay, 5*time.Millisecond, time.Second)
}

// rotation fills in the schedule and checks that it is safe.
func (k configCheck) rotation(c *stsv1.RotationConfig) {
	def := keys.DefaultSchedule()
	fill := func(d **durationpb.Duration, value time.Duration) {
		if *d == nil {
			*d = durationpb.New(value)
		}
	}
	fill(&c.Period, def.Period)
	fill(&c.PublishAhead, def.PublishAhead)
	fill(&c.JwksMaxAge, def.MaxAge)
	fill(&c.ClockSkew, def.Skew)
	fill(&c.Retain, def.Retain-def.Skew+c.ClockSkew.AsDuration())
	for _, p := range schedule(c).Check() {
		k.report("rotation."+p.Field, p.Message)
	}
}

// schedule expects its defaults to be filled in.
func schedule(c *stsv1.RotationConfig) keys.Schedule {
	return keys.Schedule{
		Period: c.Period.AsDuration(), PublishAhead: c.PublishAhead.AsDuration(), Retain: c.Retain.AsDuration(),
		MaxAge: c.JwksMaxAge.AsDuration(), Skew: c.ClockSkew.AsDuration(),
	}
}

// vaultConfig expects its defaults to be filled in.
func vaultConfig(c *stsv1.VaultConfig) vault.Config {
	out := vault.Config{
		Addresses: slices.Clone(c.Addresses), Namespace: c.Namespace, CAFile: c.CaFile, ServerName: c.ServerName,
		CertFile: c.CertFile, KeyFile: c.KeyFile, Timeout: c.Timeout.AsDuration(),
	}
	switch m := c.Login.Method.(type) {
	case *stsv1.VaultLoginConfig_TokenFile:
		out.Login.TokenFile = m.TokenFile
	case *stsv1.VaultLoginConfig_AppRole:
		out.Login.AppRole = &vault.AppRole{Mount: m.AppRole.Mount, RoleID: m.AppRole.RoleId, SecretIDFile: m.AppRole.SecretIdFile}
	case *stsv1.VaultLoginConfig_Kubernetes:
		out.Login.Kubernetes = &vault.Kubernetes{Mount: m.Kubernetes.Mount, Role: m.Kubernetes.Role, TokenFile: m.Kubernetes.TokenFile}
	case *stsv1.VaultLoginConfig_Certificate:
		out.Login.Certificate = &vault.Certificate{Mount: m.Certificate.Mount, Role: m.Certificate.Role}
	}
	return out
}
