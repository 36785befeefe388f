package main

import (
	"fmt"
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

// vault makes paths absolute, fills in defaults and has the package that reaches
// Vault say what is wrong.
func (k configCheck) vault(c *stsv1.VaultConfig) {
	const path = "keys.vault"
	c.Login = orEmpty(c.Login)
	files := []*string{&c.CaFile, &c.CertFile, &c.KeyFile}
	switch m := c.Login.Method.(type) {
	case *stsv1.VaultLoginConfig_TokenFile:
		files = append(files, &m.TokenFile)
		if m.TokenFile == "" {
			k.report(path+".login.token_file", "is missing")
		}
	case *stsv1.VaultLoginConfig_AppRole:
		files = append(files, &m.AppRole.SecretIdFile)
	case *stsv1.VaultLoginConfig_Kubernetes:
		files = append(files, &m.Kubernetes.TokenFile)
	}
	for _, file := range files {
		if *file != "" {
			*file = k.absolute(*file)
		}
	}
	k.duration(path+".timeout", &c.Timeout, 2*time.Second, 10*time.Second)
	k.batch(path, c)
	for _, p := range vaultConfig(c).Check() {
		k.report(path+"."+p.Field, p.Message)
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
