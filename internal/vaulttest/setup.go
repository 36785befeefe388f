package vaulttest

import (
	"net/http"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// Transit makes a key in the engine at transit/, and mounts that first if it is
// not there. The type is one of Vault's, such as "ecdsa-p256".
func (s *Server) Transit(t testing.TB, name, typ string) {
	t.Helper()
	s.mount(t, "sys/mounts", "transit")
	s.Do(t, http.MethodPost, "transit/keys/"+name, map[string]any{"type": typ})
}

// Policy writes a policy in Vault's language.
func (s *Server) Policy(t testing.TB, name, hcl string) {
	t.Helper()
	s.Do(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": hcl})
}

// Token makes a renewable token with one policy beside the default one.
func (s *Server) Token(t testing.TB, policy string, ttl time.Duration) string {
	t.Helper()
	answer := s.Do(t, http.MethodPost, "auth/token/create", map[string]any{
		"policies": []string{policy}, "ttl": ttl.String(), "no_parent": true,
	})
	return text(t, answer, "auth", "client_token")
}

// AppRole makes the role "test" in the method at auth/approle/, and a secret
// id for it.
func (s *Server) AppRole(t testing.TB, policies ...string) (roleID, secretID string) {
	t.Helper()
	return s.AppRoleWith(t, "test", map[string]any{"token_policies": policies})
}

// AppRoleWith is like AppRole, with the name of the role and its fields as
// Vault names them: token_ttl, token_max_ttl, secret_id_num_uses and so on.
// Calling it again changes the role and returns another secret id.
func (s *Server) AppRoleWith(t testing.TB, role string, fields map[string]any) (roleID, secretID string) {
	t.Helper()
	s.mount(t, "sys/auth", "approle")
	path := "auth/approle/role/" + role
	s.Do(t, http.MethodPost, path, fields)
	roleID = text(t, s.Do(t, http.MethodGet, path+"/role-id", nil), "data", "role_id")
	secretID = text(t, s.Do(t, http.MethodPost, path+"/secret-id", nil), "data", "secret_id")
	return roleID, secretID
}

// CertRole lets clients with a certificate of the authority log in at
// auth/cert/ as the role "test". The server must have been started WithTLS.
func (s *Server) CertRole(t testing.TB, clients *testserver.CA, policies ...string) {
	t.Helper()
	s.mount(t, "sys/auth", "cert")
	s.Do(t, http.MethodPost, "auth/cert/certs/test", map[string]any{
		"certificate": clients.PEM, "token_policies": policies,
	})
}

// mount mounts an engine or method under its own name, once.
func (s *Server) mount(t testing.TB, table, name string) {
	t.Helper()
	mounts, _ := s.Do(t, http.MethodGet, table, nil)["data"].(map[string]any)
	if _, ok := mounts[name+"/"]; !ok {
		s.Do(t, http.MethodPost, table+"/"+name, map[string]any{"type": name})
	}
}

// text returns the string at a path of members.
func text(t testing.TB, answer map[string]any, part, member string) string {
	t.Helper()
	in, _ := answer[part].(map[string]any)
	s, _ := in[member].(string)
	if s == "" {
		t.Fatalf("the answer has no %s.%s: %v", part, member, answer)
	}
	return s
}
